//! The numbers of the protocol as open newtypes: known ones have names, unknown ones survive.
//!
//! RFC 3652 §2.2.2.1–2.2.2.3, with the additions of the reference implementation and of the
//! Chinese client library (login 2001, codes 603–605).

use std::fmt;

/// Defines an open code: a number with named constants and a readable `Debug` and `Display`.
macro_rules! open_code {
    ($(#[$meta:meta])* $name:ident($int:ty) {
        $($(#[$doc:meta])* $konst:ident = $value:literal => $text:literal,)*
    }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $int);

        impl $name {
            $($(#[$doc])* pub const $konst: Self = Self($value);)*

            /// The name of a known code.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($value => Some($text),)*
                    _ => None,
                }
            }
        }

        impl ::std::fmt::Debug for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                match self.name() {
                    Some(name) => write!(f, "{}({} {name})", stringify!($name), self.0),
                    None => write!(f, "{}({})", stringify!($name), self.0),
                }
            }
        }

        impl ::std::fmt::Display for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                match self.name() {
                    Some(name) => write!(f, "{} {name}", self.0),
                    None => write!(f, "{}", self.0),
                }
            }
        }
    };
}

open_code! {
    /// What a message asks for, or answers (RFC 3652 §2.2.2.1).
    OpCode(u32) {
        /// Not an operation; also stands in errors made before the operation was known.
        RESERVED = 0 => "RESERVED",
        /// Asks for values of a handle.
        RESOLUTION = 1 => "RESOLUTION",
        /// Asks for the server's site record.
        GET_SITE_INFO = 2 => "GET_SITE_INFO",
        /// Creates a handle with its values.
        CREATE_HANDLE = 100 => "CREATE_HANDLE",
        /// Deletes a handle.
        DELETE_HANDLE = 101 => "DELETE_HANDLE",
        /// Adds values to a handle.
        ADD_VALUE = 102 => "ADD_VALUE",
        /// Removes values by index.
        REMOVE_VALUE = 103 => "REMOVE_VALUE",
        /// Replaces values by index.
        MODIFY_VALUE = 104 => "MODIFY_VALUE",
        /// Lists the handles of a prefix.
        LIST_HANDLES = 105 => "LIST_HANDLES",
        /// Answers a challenge.
        RESPONSE_TO_CHALLENGE = 200 => "RESPONSE_TO_CHALLENGE",
        /// Asks a secret key's home whether an answer to a challenge is right.
        VERIFY_CHALLENGE = 201 => "VERIFY_CHALLENGE",
        /// Makes a prefix at home here.
        HOME_NA = 300 => "HOME_NA",
        /// Ends that.
        UNHOME_NA = 301 => "UNHOME_NA",
        /// Lists the prefixes at home here.
        LIST_HOMED_NAS = 302 => "LIST_HOMED_NAS",
        /// Opens a session.
        SESSION_SETUP = 400 => "SESSION_SETUP",
        /// Closes it.
        SESSION_TERMINATE = 401 => "SESSION_TERMINATE",
        /// Brings the session key (mode 2).
        SESSION_EXCHANGEKEY = 402 => "SESSION_EXCHANGEKEY",
        /// Asks for the next transaction id (no longer supported).
        GET_NEXT_TXN_ID = 1000 => "GET_NEXT_TXN_ID",
        /// Asks for the transactions since one.
        RETRIEVE_TXN_LOG = 1001 => "RETRIEVE_TXN_LOG",
        /// Asks for all handles.
        DUMP_HANDLES = 1002 => "DUMP_HANDLES",
        /// Asks the server to make a backup.
        BACKUP_SERVER = 1003 => "BACKUP_SERVER",
        /// Makes a prefix at home here and creates its record, both or neither. Jiexi's own: the reference has no one
        /// operation for it, and a server that does not know it refuses it whole, as it would not an unknown flag.
        HOME_AND_CREATE = 300_100 => "HOME_AND_CREATE",
        /// Ends that a prefix is at home here and deletes its record, both or neither. Jiexi's own, as the one above.
        UNHOME_AND_DELETE = 300_101 => "UNHOME_AND_DELETE",
        /// Binds an identity to the connection (id-pointer SDK).
        LOGIN = 2001 => "LOGIN_ID_SYSTEM",
    }
}

open_code! {
    /// How a request ended; 0 in requests (RFC 3652 §2.2.2.2).
    ResponseCode(u32) {
        /// This is a request.
        NONE = 0 => "request",
        /// Done.
        SUCCESS = 1 => "success",
        /// Something failed; clients throw.
        ERROR = 2 => "error",
        /// Try again later.
        SERVER_TOO_BUSY = 3 => "server too busy",
        /// The request could not be understood.
        PROTOCOL_ERROR = 4 => "protocol error",
        /// This server does not do that.
        OPERATION_NOT_SUPPORTED = 5 => "operation not supported",
        /// Too many servers have passed this request on.
        RECURSION_COUNT_TOO_HIGH = 6 => "recursion count too high",
        /// The server is making a backup.
        SERVER_BACKUP = 7 => "server backup",
        /// No such handle.
        HANDLE_NOT_FOUND = 100 => "handle not found",
        /// The handle exists already.
        HANDLE_ALREADY_EXISTS = 101 => "handle already exists",
        /// Not a handle.
        INVALID_HANDLE = 102 => "invalid handle",
        /// The handle has no value as asked for.
        VALUES_NOT_FOUND = 200 => "values not found",
        /// A value with that index exists.
        VALUE_ALREADY_EXISTS = 201 => "value already exists",
        /// Not a value.
        INVALID_VALUE = 202 => "invalid value",
        /// The client's site record is old.
        OUT_OF_DATE_SITE_INFO = 300 => "out of date site info",
        /// The handle's home is elsewhere.
        SERVER_NOT_RESPONSIBLE = 301 => "server not responsible",
        /// Ask that service.
        SERVICE_REFERRAL = 302 => "service referral",
        /// Ask the sites of a derived prefix.
        PREFIX_REFERRAL = 303 => "prefix referral",
        /// That identity is not an administrator here.
        INVALID_ADMIN = 400 => "invalid admin",
        /// The administrator may not do that.
        INSUFFICIENT_PERMISSIONS = 401 => "insufficient permissions",
        /// Prove who you are: this is the challenge.
        AUTHENTICATION_NEEDED = 402 => "authentication needed",
        /// The proof is wrong.
        AUTHENTICATION_FAILED = 403 => "authentication failed",
        /// The credential is not usable.
        INVALID_CREDENTIAL = 404 => "invalid credential",
        /// The challenge was answered too late.
        AUTHENTICATION_TIMEOUT = 405 => "authentication timeout",
        /// The proof could not be checked.
        AUTHENTICATION_ERROR = 406 => "authentication error",
        /// No such session, or no longer.
        SESSION_TIMEOUT = 500 => "session timeout",
        /// The session could not be opened.
        SESSION_FAILED = 501 => "session failed",
        /// The session key is not usable.
        INVALID_SESSION_KEY = 502 => "invalid session key",
        /// The server needs an RSA key for that.
        NEED_RSAKEY_FOR_SESSIONEXCHANGE = 503 => "need RSA key for session exchange",
        /// The set-up request makes no sense.
        INVALID_SESSION_SETUP = 504 => "invalid session setup request",
        /// A message of the session came twice.
        SESSION_MESSAGE_REJECTED = 505 => "session message rejected",
        /// The quota of requests of the day is used up (id-pointer SDK).
        DAILY_REQUEST_LIMIT = 603 => "daily request limit",
        /// The quota of registrations is used up (id-pointer SDK).
        REGISTRATION_LIMIT = 604 => "registration count limit",
        /// The limit of the prefix is reached (id-pointer SDK).
        PREFIX_LIMIT = 605 => "prefix limit",
    }
}

open_code! {
    /// A hash function, as one octet.
    HashId(u8) {
        /// MD5, 16 octets.
        MD5 = 1 => "MD5",
        /// SHA-1, 20 octets.
        SHA1 = 2 => "SHA1",
        /// SHA-256, 32 octets.
        SHA256 = 3 => "SHA256",
    }
}

impl HashId {
    /// How many octets this hash gives, when it is a known one.
    #[inline]
    #[must_use]
    pub const fn size(self) -> Option<usize> {
        match self {
            Self::MD5 => Some(16),
            Self::SHA1 => Some(20),
            Self::SHA256 => Some(32),
            _ => None,
        }
    }

    /// The hash of a request digest in responses of this version.
    #[must_use]
    pub fn of_version(version: Version) -> Self {
        if version >= Version::V2_7 {
            Self::SHA256
        } else if version >= Version::V2_1 {
            Self::SHA1
        } else {
            Self::MD5
        }
    }
}

open_code! {
    /// Which part of a handle chooses the server of a site.
    HashOption(u8) {
        /// What stands before the first slash.
        PREFIX = 0 => "prefix",
        /// What stands after it.
        SUFFIX = 1 => "suffix",
        /// All of it.
        WHOLE = 2 => "whole handle",
    }
}

/// Defines a set of bits with named flags, listed in the order of the table.
macro_rules! flags {
    ($(#[$meta:meta])* $name:ident($int:ty) {
        $($(#[$doc:meta])* $konst:ident = $value:literal => $text:literal,)*
    }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
        pub struct $name(pub $int);

        impl $name {
            $($(#[$doc])* pub const $konst: Self = Self($value);)*
            /// Every known flag with its name.
            pub const NAMES: &'static [(Self, &'static str)] = &[$((Self::$konst, $text),)*];

            /// Whether all bits of `flags` are set.
            #[inline]
            #[must_use]
            pub const fn contains(self, flags: Self) -> bool {
                self.0 & flags.0 == flags.0
            }

            /// These flags and those.
            #[inline]
            #[must_use]
            pub const fn with(self, flags: Self) -> Self {
                Self(self.0 | flags.0)
            }

            /// These flags but not those.
            #[inline]
            #[must_use]
            pub const fn without(self, flags: Self) -> Self {
                Self(self.0 & !flags.0)
            }

            /// The names of the known flags that are set.
            pub fn names(self) -> impl Iterator<Item = &'static str> {
                Self::NAMES.iter().filter(move |(flag, _)| self.contains(*flag)).map(|(_, name)| *name)
            }
        }

        impl ::std::fmt::Debug for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                write!(f, "{}({:#x}", stringify!($name), self.0)?;
                for name in self.names() {
                    write!(f, " {name}")?;
                }
                f.write_str(")")
            }
        }
    };
}

flags! {
    /// How a request is to be carried out, or was (RFC 3652 §2.2.2.3).
    OpFlags(u32) {
        /// Only a primary may answer; on a response: a primary did.
        AUTH = 0x8000_0000 => "AUTH authoritative",
        /// Sign the response.
        CERT = 0x4000_0000 => "CERT certify",
        /// Encrypt the response.
        ENCR = 0x2000_0000 => "ENCR encrypt",
        /// Ask other servers when needed.
        RECU = 0x1000_0000 => "RECU recursive",
        /// Caches must hold signed responses.
        CACR = 0x0800_0000 => "CACR cache-certify",
        /// More messages of this response follow.
        CONT = 0x0400_0000 => "CONT continuous",
        /// Leave the connection open.
        KPAL = 0x0200_0000 => "KPAL keep-alive",
        /// Only public values.
        PUBL = 0x0100_0000 => "PUBL public-only",
        /// Put a digest of the request into the response; on a response: it is there.
        RRDG = 0x0080_0000 => "RRDG request-digest",
        /// Replace what exists (2.3 and later).
        OVRW = 0x0040_0000 => "OVRW overwrite",
        /// Make up the suffix of the new handle.
        MINT = 0x0020_0000 => "MINT mint-suffix",
        /// Answer "not found" instead of a referral.
        DNRF = 0x0010_0000 => "DNRF do-not-refer",
        /// A resolution request carries the user's identity in its trailer (id-pointer SDK).
        RECU_AUTH = 0x0000_0004 => "RECU_AUTH recursive-identity",
        /// The answer is older than its values live: their home cannot be reached (jiexi; others do not look at it).
        STALE = 0x0000_0001 => "STALE stale",
    }
}

impl OpFlags {
    /// What a plain client sends with a resolution.
    pub const RESOLUTION: Self = Self(0x1900_0000);
}

flags! {
    /// Who may read and write a value.
    Permissions(u8) {
        /// Administrators may read it.
        ADMIN_READ = 8 => "admin_read",
        /// Administrators may change it.
        ADMIN_WRITE = 4 => "admin_write",
        /// Everybody may read it.
        PUBLIC_READ = 2 => "public_read",
        /// Everybody may change it.
        PUBLIC_WRITE = 1 => "public_write",
    }
}

/// A version of the protocol. Layouts follow the version octets of the message itself.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Version {
    /// The part before the dot.
    pub major: u8,
    /// The part after it.
    pub minor: u8,
}

impl Version {
    /// 2.0: digests only in challenges, as MD5 after the nonce.
    pub const V2_0: Self = Self::new(2, 0);
    /// 2.1: the digest block comes first, with SHA-1.
    pub const V2_1: Self = Self::new(2, 1);
    /// 2.3: what a client without a site record sends; overwriting.
    pub const V2_3: Self = Self::new(2, 3);
    /// 2.5: codes 7 and 202.
    pub const V2_5: Self = Self::new(2, 5);
    /// 2.6: signatures cover a wrong prefix.
    pub const V2_6: Self = Self::new(2, 6);
    /// 2.7: SHA-256; the signed prefix.
    pub const V2_7: Self = Self::new(2, 7);
    /// 2.8: the suggested version is signed too; replication by TLS.
    pub const V2_8: Self = Self::new(2, 8);
    /// 2.9: replication from all sources.
    pub const V2_9: Self = Self::new(2, 9);
    /// 2.10: prefix referrals.
    pub const V2_10: Self = Self::new(2, 10);
    /// 2.11: the newest that is spoken.
    pub const V2_11: Self = Self::new(2, 11);
    /// The newest version this crate speaks.
    pub const CURRENT: Self = Self::V2_11;
    /// What a server is spoken to in of which nothing is known: one that is newer answers in the version suggested to it,
    /// one that is older answers in the version it is spoken to in, whatever that is.
    pub const COMPATIBLE: Self = Self::V2_3;

    /// A version by its two octets.
    #[must_use]
    pub const fn new(major: u8, minor: u8) -> Self {
        Self { major, minor }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_codes_have_names_and_unknown_ones_survive() {
        assert_eq!(OpCode(105).to_string(), "105 LIST_HANDLES");
        assert_eq!(format!("{:?}", OpCode(105)), "OpCode(105 LIST_HANDLES)");
        assert_eq!(format!("{:?}", OpCode(77)), "OpCode(77)");
        assert_eq!(OpCode(77).to_string(), "77");
        assert_eq!(ResponseCode(100).name(), Some("handle not found"));
    }

    #[test]
    fn flags_are_sets() {
        let flags = OpFlags::RESOLUTION;
        assert_eq!(flags, OpFlags::RECU.with(OpFlags::CACR).with(OpFlags::PUBL));
        assert!(!flags.without(OpFlags::PUBL).contains(OpFlags::PUBL));
        let debug = format!("{:?}", OpFlags::RRDG);
        assert_eq!(debug, "OpFlags(0x800000 RRDG request-digest)");
    }

    #[test]
    fn versions_are_ordered_by_number() {
        assert!(Version::V2_9 < Version::V2_10);
        assert_eq!(HashId::of_version(Version::V2_0), HashId::MD5);
        assert_eq!(HashId::of_version(Version::V2_6), HashId::SHA1);
        assert_eq!(HashId::of_version(Version::V2_10), HashId::SHA256);
    }
}
