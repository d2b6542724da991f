//! `HS_ADMIN`: who administers a handle, and what they may do (RFC 3651 §3.2.2).

use bytes::Bytes;

use crate::error::DecodeError;
use crate::value::Reference;
use crate::wire::{Reader, Writer};

flags! {
    /// The rights of an administrator.
    AdminRights(u16) {
        /// Create handles below the prefix.
        ADD_HANDLE = 0x001 => "add_handle",
        /// Delete them.
        DELETE_HANDLE = 0x002 => "delete_handle",
        /// Create derived prefixes.
        ADD_PREFIX = 0x004 => "add_na",
        /// Delete them.
        DELETE_PREFIX = 0x008 => "delete_na",
        /// Change values other than administrators.
        MODIFY_VALUE = 0x010 => "modify_value",
        /// Remove them.
        REMOVE_VALUE = 0x020 => "remove_value",
        /// Add them.
        ADD_VALUE = 0x040 => "add_value",
        /// Change administrators.
        MODIFY_ADMIN = 0x080 => "modify_admin",
        /// Remove them.
        REMOVE_ADMIN = 0x100 => "remove_admin",
        /// Add them.
        ADD_ADMIN = 0x200 => "add_admin",
        /// Read values that the public may not.
        READ_VALUE = 0x400 => "read_value",
        /// List handles below the prefix.
        LIST_HANDLES = 0x800 => "list_handles",
    }
}

impl AdminRights {
    /// Everything.
    pub const ALL: Self = Self(0xFFF);
}

/// The data of an `HS_ADMIN` value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Admin {
    /// What the administrator may do.
    pub rights: AdminRights,
    /// The value with the administrator's key, or a list of administrators.
    pub admin: Reference,
    /// Whether two zero octets follow, as old records have.
    pub padded: bool,
}

impl Admin {
    /// The type that has this data.
    pub const TYPE: &'static [u8] = b"HS_ADMIN";

    /// Reads the data of a value.
    ///
    /// # Errors
    /// Octets missing or left over, a handle above its limit.
    pub fn decode(data: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::over(data);
        let rights = AdminRights(reader.u16("permissions")?);
        let admin = Reference::read(&mut reader)?;
        let padded = reader.padding()?;
        reader.finish("admin index")?;
        Ok(Self {
            rights,
            admin,
            padded,
        })
    }

    /// Appends the data of a value.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut writer = Writer::new(out);
        writer.u16(self.rights.0);
        self.admin.write(&mut writer);
        writer.padding(self.padded);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_come_back_as_they_are() {
        for padded in [false, true] {
            let admin = Admin {
                rights: AdminRights::ALL,
                admin: Reference {
                    handle: Bytes::from_static(b"0.NA/88"),
                    index: 300,
                },
                padded,
            };
            let mut out = Vec::new();
            admin.encode(&mut out);
            assert_eq!(Admin::decode(&Bytes::from(out.clone())), Ok(admin));
            assert!(Admin::decode(&Bytes::from([&out[..], &[0]].concat())).is_err());
        }
    }

    #[test]
    fn rights_have_names() {
        let rights = AdminRights(AdminRights::READ_VALUE.0 | AdminRights::ADD_HANDLE.0);
        assert_eq!(
            rights.names().collect::<Vec<_>>(),
            ["add_handle", "read_value"]
        );
        assert!(AdminRights::ALL.contains(rights) && !rights.contains(AdminRights::ALL));
    }
}
