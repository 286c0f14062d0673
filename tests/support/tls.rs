//! TLS in front of the API server of our own, with certificates made for the purpose; and a relay into another network
//! namespace.

#![allow(dead_code, reason = "every test binary uses a part")]

use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tokio::io::copy_bidirectional;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig, crypto};

/// A certificate authority.
pub struct Authority {
    pub certificate: String,
    issuer: Issuer<'static, KeyPair>,
    der: CertificateDer<'static>,
}

/// A certificate and its key, as PEM.
pub struct Identity {
    pub certificate: String,
    pub key: String,
    der: CertificateDer<'static>,
    key_der: Vec<u8>,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let (pem, der) = (certificate.pem(), certificate.der().clone());
        Self { certificate: pem, issuer: Issuer::new(params, key), der }
    }

    /// A certificate for these names and addresses.
    pub fn issue(&self, names: &[&str]) -> Identity {
        let names = names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, "system:kube-ipvs");
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Identity {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
            der: certificate.der().clone(),
            key_der: key.serialize_der(),
        }
    }
}

/// What listens in front of another server, until it is dropped.
pub struct Front {
    pub address: SocketAddr,
    /// Handshakes that failed, as the server sees it.
    pub refused: Arc<Mutex<Vec<String>>>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Front {
    /// TLS with this identity on a free port of 127.0.0.1. With `clients`, whoever has no certificate of theirs is refused.
    pub fn start(identity: &Identity, clients: Option<&Authority>, to: SocketAddr) -> Self {
        let provider = Arc::new(crypto::ring::default_provider());
        let builder =
            ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().unwrap();
        let builder = match clients {
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots.add(authority.der.clone()).unwrap();
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
            None => builder.with_no_client_auth(),
        };
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(identity.key_der.clone()));
        let config = builder.with_single_cert(vec![identity.der.clone()], key).unwrap();
        Self::listen(TcpListener::bind("127.0.0.1:0").unwrap(), Some(TlsAcceptor::from(Arc::new(config))), to)
    }

    /// What arrives at this listener, of whichever network namespace, goes on to `to` in that of the calling thread.
    pub fn relay(listener: TcpListener, to: SocketAddr) -> Self {
        Self::listen(listener, None, to)
    }

    fn listen(listener: TcpListener, acceptor: Option<TlsAcceptor>, to: SocketAddr) -> Self {
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        // Its threads are born here and stay in this thread's network namespace.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let refused: Arc<Mutex<Vec<String>>> = Arc::default();
        let told = refused.clone();
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((mut client, _)) = listener.accept().await {
                let (acceptor, told) = (acceptor.clone(), told.clone());
                tokio::spawn(async move {
                    let Ok(mut server) = tokio::net::TcpStream::connect(to).await else { return };
                    let _ = match acceptor {
                        None => copy_bidirectional(&mut client, &mut server).await,
                        Some(acceptor) => match acceptor.accept(client).await {
                            Ok(mut client) => copy_bidirectional(&mut client, &mut server).await,
                            Err(error) => {
                                told.lock().unwrap().push(error.to_string());
                                return;
                            }
                        },
                    };
                });
            }
        });
        Self { address, refused, runtime: Some(runtime) }
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        // A test may be asynchronous itself and must not wait here.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::ZERO);
        }
    }
}
