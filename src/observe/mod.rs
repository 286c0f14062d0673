//! What others can see of the proxy: answers over HTTP, and the numbers in them.

pub mod bind;
pub mod events;
pub mod health;
pub mod health_check;
pub mod http;
pub mod metrics;
pub mod pages;
mod profile;
