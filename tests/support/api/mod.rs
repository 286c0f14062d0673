//! An API server of our own: lists (in pages or as a stream), watches, bookmarks, and whatever goes wrong with them.
//!
//! One thread for each connection, plain HTTP; GET, and POST and PATCH for events. Selectors are recorded, not evaluated: what is put in is what is
//! wanted. Real semantics are kept where a client can tell: one growing version for everything, a history that forgets,
//! `continue` tokens that hold a version, 410 for versions that are forgotten.

mod answer;
mod events;
mod http;
mod state;

pub use state::{Object, Trouble};

use state::{State, path_of};

use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::Value;

/// What the threads of a server share.
pub struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The server. It may be stopped and started again on the same port with what it holds.
pub struct Api {
    shared: Arc<Shared>,
    address: SocketAddr,
    listening: Option<Listening>,
}

struct Listening {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Api {
    /// A server on a free port of 127.0.0.1 in this thread's network namespace, holding nothing.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new() });
        let address = listener.local_addr().unwrap();
        let listening = Some(listen(listener, &shared));
        Self { shared, address, listening }
    }

    /// The server's address.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A kubeconfig for it.
    pub fn kubeconfig(&self) -> String {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts:\n- name: c\n  context: {{cluster: k, user: u}}\n\
             clusters:\n- name: k\n  cluster: {{server: '{}'}}\nusers:\n- name: u\n  user: {{token: secret}}\n",
            self.url()
        )
    }

    /// Stops listening and cuts every connection: new ones are refused.
    pub fn stop(&mut self) {
        let Some(listening) = self.listening.take() else { return };
        listening.stop.store(true, Ordering::SeqCst);
        listening.thread.join().unwrap();
        self.cut();
    }

    /// Listens again, in this thread's network namespace.
    pub fn restart(&mut self) {
        assert!(self.listening.is_none());
        let listener = TcpListener::bind(self.address).unwrap();
        self.listening = Some(listen(listener, &self.shared));
    }

    /// Cuts every connection.
    pub fn cut(&self) {
        self.change(|state| state.generation += 1);
    }

    /// What goes wrong from now on. Connections that are open stay until they are cut.
    pub fn trouble(&self, trouble: Trouble) {
        self.change(|state| state.trouble = trouble);
    }

    /// Changes what goes wrong.
    pub fn adjust(&self, adjust: impl FnOnce(&mut Trouble)) {
        self.change(|state| adjust(&mut state.trouble));
    }

    /// Puts an object in, whatever was there of that name.
    pub fn put(&self, object: Value) {
        self.change(|state| state.put(object));
    }

    /// Takes an object out.
    pub fn delete(&self, kind: &str, namespace: &str, name: &str) {
        self.change(|state| state.delete(path_of(kind), namespace, name));
    }

    /// Changes something while nobody watches: it is in no history.
    pub fn forget(&self) {
        self.change(State::forget);
    }

    /// Sends a bookmark to every watch.
    pub fn bookmark(&self) {
        self.change(|state| state.bookmarks += 1);
    }

    /// The requests so far: path and query.
    pub fn requests(&self) -> Vec<String> {
        self.shared.lock().requests.clone()
    }

    /// The events that were written, in the order in which they came.
    pub fn events(&self) -> Vec<Value> {
        self.shared.lock().events.iter().map(|(_, event)| event.clone()).collect()
    }

    /// Forgets all events, as a server does after an hour.
    pub fn forget_events(&self) {
        self.shared.lock().events.clear();
    }

    /// Forgets the requests so far.
    pub fn clear_requests(&self) {
        self.shared.lock().requests.clear();
    }

    /// The value of a header of the last request.
    pub fn header(&self, name: &str) -> Option<String> {
        self.shared.lock().headers.get(name).cloned()
    }

    /// How many watches are open at present.
    pub fn watches(&self) -> usize {
        self.shared.lock().watches
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.shared.lock());
        self.shared.changed.notify_all();
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        self.stop();
    }
}

fn listen(listener: TcpListener, shared: &Arc<Shared>) -> Listening {
    listener.set_nonblocking(true).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let (stopped, shared) = (stop.clone(), shared.clone());
    let thread = thread::spawn(move || {
        // Whoever stops it may be in another network namespace and cannot wake it by connecting.
        while !stopped.load(Ordering::SeqCst) {
            let Ok((stream, _)) = listener.accept() else {
                thread::sleep(Duration::from_millis(5));
                continue;
            };
            stream.set_nonblocking(false).unwrap();
            let shared = shared.clone();
            thread::spawn(move || http::serve(stream, &shared));
        }
    });
    Listening { stop, thread }
}
