//! What others can see of the proxy: answers over HTTP.

pub mod events;
pub mod health_check;
pub mod http;
