//! Answers that only the home of a handle can have given: over TCP, signed with the key of its site record.

use std::net::SocketAddr;

use bytes::Bytes;
use jiexi_proto::{
    code::{OpCode, OpFlags},
    message::{Body, Message, challenge::VerifyChallenge},
    value::site::SiteRecord,
};

use super::{
    Client, ClientError, Operation, Place, Question,
    administrator::is_signed,
    follow::{query_place, server_of},
};
use crate::registry::keys::VerifyingKey;

/// What is sent with a question whose answer must be signed. Whoever gets it answers it by itself.
const FLAGS: OpFlags =
    OpFlags(OpFlags::CERT.0 | OpFlags::RRDG.0 | OpFlags::CACR.0 | OpFlags::PUBL.0);

impl Operation {
    /// A resolution whose answer is signed.
    #[must_use]
    pub fn certified(question: &Question) -> Self {
        Self {
            flags: FLAGS,
            ..Self::resolution(question, false)
        }
    }

    /// Whether the answer to a challenge is that of a secret key which the server has.
    #[must_use]
    pub fn verify(asked: VerifyChallenge) -> Self {
        Self {
            op: OpCode::VERIFY_CHALLENGE,
            flags: FLAGS,
            body: Body::Verify(asked),
        }
    }
}

impl Client {
    /// Asks the server of a site that has `handle`. Its answer is about this question and signed by the server.
    ///
    /// # Errors
    /// No answer, none that makes sense, or one of somebody else.
    pub async fn ask_home(
        &self,
        site: &SiteRecord,
        handle: &Bytes,
        operation: &Operation,
    ) -> Result<(Message, SocketAddr), ClientError> {
        let (_, server) = server_of(site, handle).ok_or(ClientError::NoTransport)?;
        let place = Place {
            udp: None,
            ..query_place(site, server)
        };
        let (message, address, _) = self.exchange(&place, operation).await?;
        let key = VerifyingKey::parse(&server.public_key);
        match key.is_some_and(|key| is_signed(&message, &key)) {
            true => Ok((message, address)),
            false => Err(ClientError::Unsigned(
                address,
                "it is not signed by the key in the server's site record",
            )),
        }
    }
}
