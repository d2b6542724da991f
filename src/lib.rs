//! jiexi
