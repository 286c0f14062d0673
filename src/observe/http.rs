//! A small HTTP server: an address and somebody who answers.

use futures_util::future::BoxFuture;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Socket, Type};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// How long a client may take for its request, and a connection be idle.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Connections of one server at a time; more wait. Whoever reaches the node can open them.
const MAX_CONNECTIONS: usize = 64;
/// The wait after a connection that could not be accepted (no file descriptors left): it is offered again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// An answer.
pub type Answer = Response<Full<Bytes>>;

/// Somebody who answers requests. It must not block.
pub trait Handler: Send + Sync + 'static {
    /// The answer to a request, of whatever method and path.
    fn answer(&self, request: &Request<Incoming>) -> Answer;

    /// The same, where it takes its time. By default it takes none.
    fn answer_later<'a>(&'a self, request: &'a Request<Incoming>) -> BoxFuture<'a, Answer> {
        Box::pin(std::future::ready(self.answer(request)))
    }
}

/// A listening server. Dropping it closes the port and every connection soon, [`Server::close`] for sure.
#[derive(Debug)]
pub struct Server {
    task: JoinHandle<()>,
}

impl Server {
    /// Listens. A wildcard address means the addresses of its own family only.
    ///
    /// # Errors
    /// When the address is in use, or not one of the node's.
    pub fn listen(address: SocketAddr, handler: Arc<dyn Handler>) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        // Former connections that wait out their end must not keep a restart from listening.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(128)?;
        let listener = TcpListener::from_std(socket.into())?;
        Ok(Self { task: tokio::spawn(serve(listener, handler)) })
    }

    /// Closes the port and every connection. When it returns, the port is free.
    pub async fn close(mut self) {
        self.task.abort();
        // The only error is that it was aborted.
        let _ = (&mut self.task).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, handler: Arc<dyn Handler>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, _)) => drop(connections.spawn(converse(stream, handler.clone()))),
                Err(error) => {
                    tracing::debug!("accepting a connection: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn converse(stream: TcpStream, handler: Arc<dyn Handler>) {
    let answer = service_fn(|request| {
        let handler = handler.clone();
        async move { Ok::<_, Infallible>(handler.answer_later(&request).await) }
    });
    let mut http = http1::Builder::new();
    // Names of headers as other programs write them: some that ask are scripts that search for them.
    http.title_case_headers(true).timer(TokioTimer::new()).header_read_timeout(REQUEST_TIMEOUT);
    if let Err(error) = http.serve_connection(TokioIo::new(stream), answer).await {
        tracing::trace!("a client left or spoke no HTTP: {error}");
    }
}
