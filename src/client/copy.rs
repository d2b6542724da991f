//! A copy of everything a server has (operation 1002), block by block as it comes.
//!
//! ```text
//! request ─→ 402 ─→ proof ─→ answer, then on the same connection
//!    ├ before 2.8: a hash name, blocks in clear, a signature of the server behind each
//!    └ from 2.8 on: TLS, in which the server shows the key of its site record; the same blocks without signatures
//! ```
//!
//! A block is read as it is: what a node makes of records that are larger than it takes, or of values that are none, is
//! for others to say.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiexi_proto::code::{OpCode, OpFlags, ResponseCode, Version};
use jiexi_proto::limits::NAME_MAX;
use jiexi_proto::message::Body;
use jiexi_proto::message::replication::{Share, StreamStart};
use jiexi_proto::wire::Reader;
use rsa::pkcs8::DecodePublicKey as _;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, BufReader};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use x509_cert::Certificate;
use x509_cert::der::{Decode as _, Encode as _};

use super::administrator::{Administrator, Answer};
use super::{ClientError, Operation, Transport};
use crate::registry::keys::{Hash, VerifyingKey};

/// Octets of a block at most: the largest record of a reference server is far smaller.
const BLOCK_MAX: usize = 64 << 20;
/// Octets of a signature at most.
const SIGNATURE_MAX: usize = 4 << 10;
/// Octets that are read at once.
const BUFFER: usize = 256 << 10;
/// The newest version whose copies are signed, and in clear.
const SIGNED_UP_TO: Version = Version::V2_7;
/// Ends a copy; it has no signature.
const END: u8 = 0xFF;

/// A block of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Block {
    /// Where the server stands; old ones say it last, new ones first.
    Server {
        /// Its time, in milliseconds since 1970.
        date_ms: i64,
        /// Its last transaction.
        transaction: i64,
    },
    /// A handle and its values, each in wire form.
    Record {
        /// The handle, as the server stores it.
        handle: Bytes,
        /// The values.
        values: Vec<Bytes>,
    },
    /// A prefix handle that is at home there.
    Prefix(Bytes),
    /// What mirrors keep for themselves: when something was created or deleted, and how far other servers are.
    Other,
}

/// A connection.
trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// A copy under way.
pub struct Copy {
    io: BufReader<Box<dyn Wire>>,
    server: SocketAddr,
    patience: Duration,
    /// Whose signature stands behind each block, with which hash; none inside TLS.
    signer: Option<(VerifyingKey, Hash)>,
    /// The format: 1 ends with where the server stands.
    format: u32,
    ended: bool,
    /// The block that is being read.
    block: Vec<u8>,
}

impl std::fmt::Debug for Copy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Copy")
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}

impl Administrator {
    /// Asks for a copy of everything. With `clear` it may come in clear, from servers that know no other way.
    ///
    /// # Errors
    /// No answer, or none that makes sense or can be trusted. A refusal is an answer, and no copy follows.
    pub async fn copy(&mut self, clear: bool) -> Result<Result<Copy, Answer>, ClientError> {
        let (key, version) = self.meet().await?;
        if version <= SIGNED_UP_TO && !clear {
            return Err(ClientError::InClear(self.server()?));
        }
        if clear && !matches!(key, Some(VerifyingKey::Rsa(_))) {
            // No TLS with such a key.
            self.speak_at_most(SIGNED_UP_TO);
        }
        let operation = Operation {
            op: OpCode::DUMP_HANDLES,
            flags: OpFlags::RESOLUTION.with(OpFlags::CERT),
            body: Body::DumpHandles(Share::ALL),
        };
        let (answer, connection) = self.follow_up(&operation).await?;
        if answer.code != ResponseCode::SUCCESS {
            return Ok(Err(answer));
        }
        let (stream, before, patience) = connection.into_parts();
        let (read, write) = stream.into_split();
        let read = io::Cursor::new(before).chain(read);
        let io = Box::new(tokio::io::join(read, write));
        let begun = begin(io, answer.server, key, clear);
        let late = |_| ClientError::TimedOut(answer.server, Transport::Tcp);
        let (io, signer) = timeout(patience, begun).await.map_err(late)??;
        let mut copy = Copy {
            io: BufReader::with_capacity(BUFFER, io),
            server: answer.server,
            patience,
            signer,
            format: 0,
            ended: false,
            block: Vec::new(),
        };
        copy.format = copy.within(Copy::head).await?;
        Ok(Ok(copy))
    }
}

/// Reads how the blocks come.
async fn begin(
    mut io: Box<dyn Wire>,
    server: SocketAddr,
    key: Option<VerifyingKey>,
    clear: bool,
) -> Result<(Box<dyn Wire>, Option<(VerifyingKey, Hash)>), ClientError> {
    let failed = |error| ClientError::Io(server, Transport::Tcp, error);
    let why = "the site record of the server has no key that can be checked with";
    let key = key.ok_or(ClientError::Unsigned(server, why))?;
    let mut octets = vec![0; 4];
    io.read_exact(&mut octets).await.map_err(failed)?;
    if octets == [0; 4] {
        let length = io.read_u32().await.map_err(failed)?;
        let length = usize::try_from(length).unwrap_or(usize::MAX).min(NAME_MAX);
        octets.extend_from_slice(&u32::try_from(length).unwrap_or_default().to_be_bytes());
        octets.resize(8 + length, 0);
        io.read_exact(&mut octets[8..]).await.map_err(failed)?;
    }
    let start = StreamStart::decode(&mut Reader::over(&Bytes::from(octets)))
        .map_err(|error| ClientError::Malformed(server, error))?;
    match start {
        StreamStart::Tls => Ok((Box::new(inside(io, server, key).await?), None)),
        StreamStart::Signed(_) if !clear => Err(ClientError::InClear(server)),
        StreamStart::Signed(name) => {
            let why = "its signatures are made with a hash that is not known";
            let hash = Hash::named(&name).ok_or(ClientError::Copy(server, why))?;
            Ok((io, Some((key, hash))))
        }
    }
}

/// Opens TLS with a server that must have this key.
async fn inside(
    io: Box<dyn Wire>,
    server: SocketAddr,
    key: VerifyingKey,
) -> Result<impl Wire, ClientError> {
    let provider = Arc::new(ring::default_provider());
    let known = KnownKey {
        key,
        provider: Arc::clone(&provider),
    };
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|_| ClientError::Copy(server, "TLS cannot be set up"))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(known))
        .with_no_client_auth();
    let name = ServerName::IpAddress(server.ip().into());
    let connector = TlsConnector::from(Arc::new(config));
    let opened = connector.connect(name, io).await;
    opened.map_err(|error| ClientError::Io(server, Transport::Tcp, error))
}

impl Copy {
    /// The next block; none behind the last one.
    ///
    /// # Errors
    /// The connection breaks off, or what comes is no copy or not signed by the server.
    pub async fn next(&mut self) -> Result<Option<Block>, ClientError> {
        match self.ended {
            true => Ok(None),
            false => self.within(Self::read).await,
        }
    }

    /// Waits for something no longer than the server may take.
    async fn within<T>(
        &mut self,
        what: impl AsyncFnOnce(&mut Self) -> Result<T, ClientError>,
    ) -> Result<T, ClientError> {
        let (patience, server) = (self.patience, self.server);
        let late = |_| ClientError::TimedOut(server, Transport::Tcp);
        timeout(patience, what(self)).await.map_err(late)?
    }

    /// The format, which is a block by itself.
    async fn head(&mut self) -> Result<u32, ClientError> {
        let format = self.u32().await?;
        self.check().await?;
        match format {
            1 | 2 => Ok(format),
            _ => Err(ClientError::Copy(
                self.server,
                "it is of a format that is not known",
            )),
        }
    }

    async fn read(&mut self) -> Result<Option<Block>, ClientError> {
        let kind = self.take(1).await?[0];
        let block = match kind {
            0 => {
                self.ended = self.format == 1;
                let (date_ms, transaction) = (self.i64().await?, self.i64().await?);
                Block::Server {
                    date_ms,
                    transaction,
                }
            }
            1 => {
                let handle = self.bytes().await?;
                let (count, mut values) = (self.u32().await?, Vec::new());
                // Each has its length at least, so that there are no more of them than a block has room for.
                for _ in 0..count {
                    values.push(self.bytes().await?);
                }
                Block::Record { handle, values }
            }
            2 => Block::Prefix(self.bytes().await?),
            // When a handle or a prefix was created or deleted, and how far other servers are.
            3 | 4 => {
                self.bytes().await?;
                self.take(8 + 4).await?;
                Block::Other
            }
            5 => {
                self.bytes().await?;
                Block::Other
            }
            END if self.format == 2 => {
                self.ended = true;
                self.block.clear();
                return Ok(None);
            }
            _ => {
                return Err(ClientError::Copy(
                    self.server,
                    "it has a block that is not known",
                ));
            }
        };
        self.check().await?;
        Ok(Some(block))
    }

    /// Ends a block: the signature behind it is the server's.
    async fn check(&mut self) -> Result<(), ClientError> {
        let block = std::mem::take(&mut self.block);
        let Some((key, hash)) = self.signer.clone() else {
            return Ok(());
        };
        let length = usize::try_from(self.u32().await?).unwrap_or(usize::MAX);
        if length > SIGNATURE_MAX {
            return Err(ClientError::Copy(self.server, "a signature is too long"));
        }
        let signature = self.take(length).await?.to_vec();
        self.block.clear();
        match key.verifies(hash, b"", &block, &signature) {
            true => Ok(()),
            false => {
                let why =
                    "a block of the copy is not signed by the key in the server's site record";
                Err(ClientError::Unsigned(self.server, why))
            }
        }
    }

    async fn bytes(&mut self) -> Result<Bytes, ClientError> {
        let length = usize::try_from(self.u32().await?).unwrap_or(usize::MAX);
        Ok(Bytes::copy_from_slice(self.take(length).await?))
    }

    async fn u32(&mut self) -> Result<u32, ClientError> {
        let octets = self.take(4).await?.first_chunk().copied();
        Ok(u32::from_be_bytes(octets.unwrap_or_default()))
    }

    async fn i64(&mut self) -> Result<i64, ClientError> {
        let octets = self.take(8).await?.first_chunk().copied();
        Ok(i64::from_be_bytes(octets.unwrap_or_default()))
    }

    /// The next octets, which become part of the block.
    async fn take(&mut self, count: usize) -> Result<&[u8], ClientError> {
        let start = self.block.len();
        if count > BLOCK_MAX - start.min(BLOCK_MAX) {
            return Err(ClientError::Copy(
                self.server,
                "a block is larger than 64 MiB",
            ));
        }
        self.block.resize(start + count, 0);
        let read = self.io.read_exact(&mut self.block[start..]).await;
        match read {
            Ok(_) => Ok(&self.block[start..]),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                let why = "it breaks off before its end: the log of the server may say why";
                Err(ClientError::Copy(self.server, why))
            }
            Err(error) => Err(ClientError::Io(self.server, Transport::Tcp, error)),
        }
    }
}

/// Believes a server that has the key of its site record, whatever else its certificate says.
#[derive(Debug)]
struct KnownKey {
    key: VerifyingKey,
    provider: Arc<CryptoProvider>,
}

impl KnownKey {
    fn is_of(&self, certificate: &CertificateDer<'_>) -> Option<bool> {
        let certificate = Certificate::from_der(certificate).ok()?;
        let shown = certificate.tbs_certificate().subject_public_key_info();
        let shown = rsa::PublicKey::from_public_key_der(&shown.to_der().ok()?).ok()?;
        Some(matches!(&self.key, VerifyingKey::Rsa(key) if *key == shown))
    }
}

impl ServerCertVerifier for KnownKey {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.is_of(end_entity) {
            Some(true) => Ok(ServerCertVerified::assertion()),
            _ => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: SocketAddr =
        SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);

    fn vector(name: &str) -> serde_json::Value {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("proto/tests/vectors");
        serde_json::from_slice(&std::fs::read(path.join(name)).unwrap()).unwrap()
    }

    /// The recorded stream of a reference server, signed and in clear.
    fn recorded() -> Vec<u8> {
        let vector = vector("dump_handles_2_7.json");
        let exchanges = vector["exchanges"].as_array().unwrap().iter();
        let mut messages = exchanges.flat_map(|exchange| exchange["messages"].as_array().unwrap());
        let stream = messages.find_map(|message| message["stream_hex"].as_str());
        hex::decode(stream.unwrap()).unwrap()
    }

    fn key(name: &str) -> VerifyingKey {
        let keys = vector("keys.json");
        let octets = hex::decode(keys[name].as_str().unwrap()).unwrap();
        VerifyingKey::parse(&Bytes::from(octets)).unwrap()
    }

    /// The blocks of a stream, and how it ends.
    fn blocks(octets: &[u8], key: VerifyingKey, clear: bool) -> (Vec<Block>, Option<ClientError>) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build();
        runtime.unwrap().block_on(async {
            let io = tokio::io::join(io::Cursor::new(octets.to_vec()), tokio::io::sink());
            let (io, signer) = match begin(Box::new(io), SERVER, Some(key), clear).await {
                Ok(begun) => begun,
                Err(error) => return (Vec::new(), Some(error)),
            };
            let mut copy = Copy {
                io: BufReader::new(io),
                server: SERVER,
                patience: Duration::from_secs(60),
                signer,
                format: 0,
                ended: false,
                block: Vec::new(),
            };
            match copy.within(Copy::head).await {
                Ok(format) => copy.format = format,
                Err(error) => return (Vec::new(), Some(error)),
            }
            let mut blocks = Vec::new();
            loop {
                match copy.next().await {
                    Ok(Some(block)) => blocks.push(block),
                    Ok(None) => return (blocks, None),
                    Err(error) => return (blocks, Some(error)),
                }
            }
        })
    }

    /// Goal: the copy of a reference server is read whole, and only when its server has signed it. Method: the recorded one.
    #[test]
    fn recorded_copy() {
        let octets = recorded();
        let (all, end) = blocks(&octets, key("server_pub.bin_hex"), true);
        assert!(end.is_none(), "{end:?}");
        assert!(matches!(all[0], Block::Server { transaction, .. } if transaction > 0));
        let records = all
            .iter()
            .filter(|block| matches!(block, Block::Record { .. }))
            .count();
        let prefixes = all
            .iter()
            .filter(|block| matches!(block, Block::Prefix(_)))
            .count();
        assert!(
            records > 20 && prefixes > 0,
            "{records} records, {prefixes} prefixes"
        );

        let (none, end) = blocks(&octets, key("admin_rsa_pub.bin_hex"), true);
        assert!(
            none.is_empty() && matches!(end, Some(ClientError::Unsigned(..))),
            "{end:?}"
        );
        let (none, end) = blocks(&octets, key("server_pub.bin_hex"), false);
        assert!(
            none.is_empty() && matches!(end, Some(ClientError::InClear(_))),
            "{end:?}"
        );
    }

    /// Goal: what was changed on its way is not taken, and what was cut is no whole copy. Method: the recorded one, with an
    /// octet changed or its end missing at many places.
    #[test]
    fn damaged_copies() {
        let octets = recorded();
        let all = blocks(&octets, key("server_pub.bin_hex"), true).0;
        for place in (8..octets.len() - 1).step_by(997) {
            let mut damaged = octets.clone();
            damaged[place] ^= 1;
            let (some, end) = blocks(&damaged, key("server_pub.bin_hex"), true);
            assert!(end.is_some(), "octet {place} is not covered");
            assert!(
                some.len() < all.len() && some[..] == all[..some.len()],
                "octet {place}"
            );
            let (some, end) = blocks(&octets[..place], key("server_pub.bin_hex"), true);
            assert!(
                end.is_some() && some[..] == all[..some.len()],
                "cut at {place}"
            );
        }
    }
}
