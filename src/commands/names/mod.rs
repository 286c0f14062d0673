//! Where names come from, for commands that read addresses out of the kernel: the running daemon, or manifest files or an
//! API server where they were given, or nowhere. Commands flatten [`NamesArgs`] and ask [`Names`].
//!
//! | file | what |
//! |---|---|
//! | `source.rs` | fetching: control socket, files, API server |
//! | `frontend.rs` | which Service port an address is; which pods are behind it |
//! | `selector.rs` | `--selector`, as kubectl reads it |

mod frontend;
mod selector;
mod source;

pub use frontend::{Endpoint, EndpointState, Endpoints, Frontend, Names};
pub use selector::{Selector, SelectorError};
pub use source::NamesArgs;
