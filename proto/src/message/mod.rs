//! Messages: envelope, header, body, credential (RFC 3652 §2).
//!
//! In order of depth: [`Envelope`] and [`Header`] say what a message is; [`MessageView`] finds its
//! parts in a receive buffer; [`resolution::ResolutionView`] is the question of the hot path.

pub mod envelope;
pub mod header;
pub mod resolution;
pub mod view;

pub use envelope::{Envelope, EnvelopeFlags};
pub use header::Header;
pub use view::MessageView;
