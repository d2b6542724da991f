//! The Handle wire protocol.
