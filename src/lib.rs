//! kube-ipvs as a library: what the binary and the integration tests share.

pub mod kernel;
