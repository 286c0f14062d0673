//! kube-ipvs: a Kubernetes service proxy for the node.
//!
//! Data goes one way: `source` → `model` → `desired` → `reconcile` → `backend` → `kernel` and the crates `ipvs` and
//! `iptables`. ARCHITECTURE.md explains it; `tests/imports.rs` checks it.

pub mod backend;
pub mod cli;
pub mod commands;
pub mod config;
pub mod desired;
pub mod exit;
pub mod kernel;
pub mod lab;
pub mod model;
pub mod observe;
pub mod reconcile;
pub mod source;
