//! kube-ipvs: a Kubernetes service proxy for the node.
fn main() {}
