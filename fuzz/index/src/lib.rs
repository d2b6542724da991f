//! The index of the store by itself, so that its tests can be built with an address sanitizer in a short time.
#![expect(dead_code, reason = "the rest of the store is not here")]

#[path = "../../../src/store"]
mod store {
    pub(crate) mod change;
    pub(crate) mod index;
    pub(crate) mod record;
    pub(crate) mod role;
}
