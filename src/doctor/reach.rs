//! Whether the ports are there, and whether the node answers by each protocol.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RecordType};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use socket2::{Domain, Socket, Type};

use super::{Finding, Verdict};
use crate::client::{Client, Place, Transports};
use crate::clock;
use crate::config::Config;
use crate::identity;
use crate::probe::{self, Scrape};
use crate::reload::Certificates;
use crate::store::Store;

/// What is asked for over HTTP. A node answers that there is no such page; a handle it might have to ask others for, who
/// need not answer.
const ASKED: &str = "/api/";

/// Whether there is a node.
pub(super) enum Running {
    /// It answers; what it exports.
    Yes(Scrape),
    /// Something listens and says nothing.
    Hung,
    /// There is one, and not where it says what it exports.
    Elsewhere,
    /// There is none.
    No,
}

/// Whether a node runs, and what it exports then.
pub(super) fn operations(config: &Config, findings: &mut Vec<Finding>) -> Running {
    let address = probe::local(config.operations.listen);
    let said = match probe::ready(address) {
        Ok((_, said)) => said,
        Err(error) => return silent(config, address, &error, findings),
    };
    findings.push(match probe::complaint(&said) {
        None => Finding::good("node", "runs and is ready"),
        Some(complaint) => Finding::new("node", Verdict::Bad, complaint, "the log says more"),
    });
    let scrape = match probe::get(address, "/metrics") {
        Ok((_, text)) => Scrape::read(&text),
        Err(_) => return Running::Hung,
    };
    if scrape.sum("jiexi_config_last_reload_successful", &[]) != 1.0 {
        let found = "the node has refused the configuration on disk, or a certificate of it, and runs with the old one";
        findings.push(Finding::new(
            "configuration",
            Verdict::Bad,
            found,
            "`jiexi config check`, then `kill -HUP`; the log says which file",
        ));
    }
    Running::Yes(scrape)
}

/// What it means that no node answers at the operations listener: one that has the files of this node hangs, or listens
/// elsewhere; else it is another program that listens, or nobody.
fn silent(
    config: &Config,
    address: SocketAddr,
    error: &io::Error,
    findings: &mut Vec<Finding>,
) -> Running {
    let late = error.kind() == io::ErrorKind::TimedOut;
    let (running, verdict, found, advice) = match (is_there(config), late) {
        (true, true) => (
            Running::Hung,
            Verdict::Bad,
            format!("listens at http://{address} and gives {error}"),
            "the log says more; `systemctl restart jiexi` loses nothing that was acknowledged",
        ),
        (true, false) => (
            Running::Elsewhere,
            Verdict::Warning,
            format!("runs, but not with its operations listener at http://{address}: {error}"),
            "if [operations] listen was changed since the node started: `systemctl restart jiexi`",
        ),
        (false, _) => (
            Running::No,
            Verdict::Warning,
            format!("does not run: http://{address}: {error}"),
            "`jiexi serve`, or `systemctl start jiexi`",
        ),
    };
    findings.push(Finding::new("node", verdict, found, advice));
    running
}

/// Whether a process has the node: it is at its control socket, or has its store.
fn is_there(config: &Config) -> bool {
    UnixStream::connect(config.control_socket()).is_ok() || Store::is_open(&config.store_dir())
}

/// Everything that listens: section, transport, address.
fn listeners(config: &Config) -> Vec<(&'static str, &'static str, SocketAddr)> {
    let at = |ips: &[IpAddr], port| -> Vec<SocketAddr> {
        ips.iter().map(|ip| SocketAddr::new(*ip, port)).collect()
    };
    let mut all = Vec::new();
    for address in at(&config.handle.listen, config.handle.port) {
        all.extend([("handle", "UDP", address), ("handle", "TCP", address)]);
    }
    all.extend(
        at(&config.http.listen, config.http.port)
            .into_iter()
            .map(|address| ("http", "TCP", address)),
    );
    if config.dns.enabled {
        for address in at(&config.dns.listen, config.dns.port) {
            all.extend([("dns", "UDP", address), ("dns", "TCP", address)]);
        }
        if !config.dns.certificate.as_os_str().is_empty() {
            let secure = at(&config.dns.listen, config.dns.tls_port);
            all.extend(secure.into_iter().map(|address| ("dns", "TLS", address)));
        }
    }
    all.push(("operations", "TCP", config.operations.listen));
    all
}

/// Whether a node that is started now gets its ports.
pub(super) fn ports(config: &Config, findings: &mut Vec<Finding>) {
    let mut free = 0;
    for (section, transport, address) in listeners(config) {
        // That of the operations takes both families.
        let Err(error) = can_bind(address, transport == "UDP", section != "operations") else {
            free += 1;
            continue;
        };
        let advice = match error.kind() {
            io::ErrorKind::PermissionDenied => {
                "ports below 1024 need CAP_NET_BIND_SERVICE: start it by its unit".to_owned()
            }
            io::ErrorKind::AddrInUse => {
                format!("`ss -lnp sport = :{}` shows who has it", address.port())
            }
            _ => format!("is the address in [{section}] listen one of this machine?"),
        };
        let found = format!("[{section}] {address} {transport}: {error}");
        findings.push(Finding::new("ports", Verdict::Bad, found, advice));
    }
    findings.push(Finding::good("ports", format!("{free} can be bound")));
}

/// Whether an address can be bound, as the node binds it: with `one_family`, `::` and 0.0.0.0 are two.
fn can_bind(address: SocketAddr, datagrams: bool, one_family: bool) -> io::Result<()> {
    let kind = if datagrams { Type::DGRAM } else { Type::STREAM };
    let socket = Socket::new(Domain::for_address(address), kind, None)?;
    if address.is_ipv6() && one_family {
        socket.set_only_v6(true)?;
    }
    if datagrams {
        return socket.bind(&address.into());
    }
    // Connections that ended lately are nobody's port.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(1)
}

/// Whether the node answers at every address by what is spoken there.
pub(super) async fn answers(
    config: &Config,
    certificates: Option<Certificates>,
    findings: &mut Vec<Finding>,
) {
    for (section, transport, address) in listeners(config) {
        let at = probe::local(address);
        let answered = match (section, transport) {
            ("handle", _) => handle(at, transport).await,
            ("http", _) => http(at).and_then(|()| match &certificates {
                Some(certificates) => tls(at, certificates.http.certificate()),
                None => Ok(()),
            }),
            ("dns", "TLS") => match certificates.as_ref().and_then(|all| all.dns.as_ref()) {
                Some(identity) => tls(at, identity.certificate()),
                None => Ok(()),
            },
            ("dns", _) => dns(config, at, transport),
            // That it answers is known.
            _ => continue,
        };
        findings.push(told(section, transport, at, answered, Verdict::Bad));
    }
    let Ok(site) = identity::own_site(&config.site_file()) else {
        return;
    };
    for address in identity::addresses(&site)
        .iter()
        .filter_map(|text| text.parse::<SocketAddr>().ok())
    {
        for transport in ["UDP", "TCP"] {
            let answered = handle(address, transport).await;
            // A machine behind a translated address does not always reach itself by it.
            findings.push(told(
                "site record",
                transport,
                address,
                answered,
                Verdict::Warning,
            ));
        }
    }
}

fn told(
    section: &str,
    transport: &str,
    at: SocketAddr,
    answered: Result<(), String>,
    missing: Verdict,
) -> Finding {
    let place = format!("{section} {at} {transport}");
    match answered {
        Ok(()) => Finding::good("answers", place),
        Err(error) => Finding::new(
            "answers",
            missing,
            format!("{place}: {error}"),
            "is it another program's port, or does a firewall stand between? Clients elsewhere need UDP and TCP",
        ),
    }
}

/// Any answer of the Handle protocol will do. What is asked for is the node's own: a handle it might ask others for.
async fn handle(at: SocketAddr, transport: &str) -> Result<(), String> {
    let only = if transport == "UDP" {
        Transports::Udp
    } else {
        Transports::Tcp
    };
    let mut client = Client::new(only, clock::unix_seconds);
    (client.tcp_connect, client.tcp_answer) = (probe::PATIENCE, probe::PATIENCE);
    let answered = client.greet(&Place::at(at)).await;
    answered.map(drop).map_err(|error| error.to_string())
}

fn http(at: SocketAddr) -> Result<(), String> {
    match probe::get(at, ASKED) {
        Ok((code, _)) if code < 500 => Ok(()),
        Ok((code, _)) => Err(format!("HTTP answers {code}")),
        Err(error) => Err(format!("HTTP: {error}")),
    }
}

/// Asks for the SOA of the first zone.
fn dns(config: &Config, at: SocketAddr, transport: &str) -> Result<(), String> {
    let failed = |error: &dyn std::fmt::Display| error.to_string();
    let apex = config
        .dns
        .zones
        .first()
        .map_or(".", |zone| zone.name.as_str());
    let mut message = Message::query();
    let name = Name::from_ascii(apex).map_err(|error| failed(&error))?;
    message.add_query(Query::query(name, RecordType::SOA));
    let octets = message.to_vec().map_err(|error| failed(&error))?;
    let answer = match transport {
        "UDP" => datagram(at, &octets),
        _ => stream(at, &octets),
    };
    let answer = Message::from_vec(&answer.map_err(|error| failed(&error))?)
        .map_err(|error| failed(&error))?;
    match answer.answers.is_empty() {
        true => Err(format!("no SOA of {apex}")),
        false => Ok(()),
    }
}

fn datagram(at: SocketAddr, octets: &[u8]) -> io::Result<Vec<u8>> {
    let any: IpAddr = if at.is_ipv4() {
        [0; 4].into()
    } else {
        [0_u8; 16].into()
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(probe::PATIENCE))?;
    socket.connect(at)?;
    socket.send(octets)?;
    let mut answer = vec![0; 4096];
    let length = socket.recv(&mut answer)?;
    answer.truncate(length);
    Ok(answer)
}

fn stream(at: SocketAddr, octets: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = connect(at)?;
    stream.write_all(
        &u16::try_from(octets.len())
            .unwrap_or(u16::MAX)
            .to_be_bytes(),
    )?;
    stream.write_all(octets)?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut answer = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

fn connect(at: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&at, probe::PATIENCE)?;
    stream.set_read_timeout(Some(probe::PATIENCE))?;
    stream.set_write_timeout(Some(probe::PATIENCE))?;
    Ok(stream)
}

/// Shakes hands, and sees that the certificate is the configured one.
fn tls(at: SocketAddr, certificate: CertificateDer<'static>) -> Result<(), String> {
    let provider = Arc::new(ring::default_provider());
    let expected = Arc::new(Expected {
        certificate,
        provider: Arc::clone(&provider),
    });
    let shaken = || -> Result<(), Box<dyn std::error::Error>> {
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(expected)
            .with_no_client_auth();
        let mut connection = ClientConnection::new(Arc::new(config), ServerName::from(at.ip()))?;
        let mut stream = connect(at)?;
        while connection.is_handshaking() {
            connection.complete_io(&mut stream)?;
        }
        Ok(())
    };
    shaken().map_err(|error| format!("TLS: {error}"))
}

/// Takes one certificate and no other.
#[derive(Debug)]
struct Expected {
    certificate: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Expected {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match *end_entity == self.certificate {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(rustls::Error::General(
                "another certificate than the configured one".into(),
            )),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.provider.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};

    use super::*;

    /// Goal: a port that another program has by IPv4 is free for the node by IPv6, which binds each family by itself; but for
    /// the operations listener, which takes both.
    #[test]
    fn families_are_bound_apart() {
        let other = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let port = other.local_addr().unwrap().port();
        let at = |ip: IpAddr| SocketAddr::new(ip, port);
        let in_use = Some(io::ErrorKind::AddrInUse);
        let refused = |ip: IpAddr, one_family| {
            let bound = can_bind(at(ip), false, one_family);
            bound.err().map(|error| error.kind())
        };
        assert_eq!(refused(Ipv4Addr::UNSPECIFIED.into(), true), in_use);
        assert_eq!(refused(Ipv6Addr::UNSPECIFIED.into(), true), None);
        assert_eq!(refused(Ipv6Addr::UNSPECIFIED.into(), false), in_use);
        let datagrams = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let taken = datagrams.local_addr().unwrap();
        assert_eq!(
            can_bind(taken, true, true).unwrap_err().kind(),
            io::ErrorKind::AddrInUse
        );
        drop(datagrams);
        can_bind(taken, true, true).unwrap();
    }
}
