//! The PROXY protocol, versions 1 and 2: who the client is that a proxy in front of us speaks for.
//!
//! Pure but for [`read`], which takes the header from a socket byte for byte: what follows it belongs to others. Only listeners that
//! are configured for it read one, and they take nobody without: a header is a claim about identity.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::model::CertificateIdentity;

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Bytes of a version 2 header behind its first 16: two IPv6 addresses and room for the names of a certificate.
const V2_BYTES_MAX: usize = 2 << 10;
/// Bytes of a version 1 header, its end of line included.
const V1_BYTES_MAX: usize = 107;

const TLV_SSL: u8 = 0x20;
const TLV_SSL_COMMON_NAME: u8 = 0x22;
const CLIENT_SSL: u8 = 0x01;
const CLIENT_CERTIFICATE: u8 = 0x02 | 0x04;

/// What a header says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyHeader {
    /// The client's address; `None` when the proxy speaks for itself or does not know.
    pub client: Option<SocketAddr>,
    /// The client reached the proxy over TLS.
    pub is_encrypted: bool,
    /// Of the client's certificate, when the proxy verified one.
    pub certificate: Option<CertificateIdentity>,
}

/// Why a header was not taken.
#[derive(Debug, Error)]
pub enum ProxyError {
    /// The stream ended or failed before the header was whole.
    #[error("the connection was lost before its PROXY header was whole: {0}")]
    Io(#[from] io::Error),
    /// What came is no header.
    #[error("no PROXY header came; turn proxy_protocol off, or on in the proxy")]
    Absent,
    /// A header that the protocol does not allow, or one of a kind that we do not take.
    #[error("the PROXY header is malformed: {what}")]
    Malformed {
        /// What is wrong.
        what: &'static str,
    },
    /// A header that is longer than we take.
    #[error("the PROXY header has {bytes} bytes; at most {bytes_max} are taken")]
    TooLong {
        /// Bytes it says it has.
        bytes: usize,
        /// Bytes it may have.
        bytes_max: usize,
    },
}

/// Reads one header, and not a byte more.
pub async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> Result<ProxyHeader, ProxyError> {
    // The shortest header of version 1 has more than these.
    let mut start = [0; 12];
    stream.read_exact(&mut start).await?;
    if start == SIGNATURE {
        let mut rest = [0; 4];
        stream.read_exact(&mut rest).await?;
        let [version_command, family, high, low] = rest;
        let bytes = usize::from(u16::from_be_bytes([high, low]));
        if bytes > V2_BYTES_MAX {
            return Err(ProxyError::TooLong { bytes, bytes_max: V2_BYTES_MAX });
        }
        let mut body = vec![0; bytes];
        stream.read_exact(&mut body).await?;
        return parse_v2(version_command, family, &body);
    }
    if !start.starts_with(b"PROXY ") {
        return Err(ProxyError::Absent);
    }
    let mut line = start.to_vec();
    while !line.ends_with(b"\r\n") {
        if line.len() >= V1_BYTES_MAX {
            return Err(ProxyError::TooLong { bytes: line.len() + 1, bytes_max: V1_BYTES_MAX });
        }
        line.push(stream.read_u8().await?);
    }
    parse_v1(&line[..line.len() - 2])
}

/// `PROXY TCP4 192.0.2.1 198.51.100.1 40000 1883`
fn parse_v1(line: &[u8]) -> Result<ProxyHeader, ProxyError> {
    let malformed = |what| ProxyError::Malformed { what };
    let line = str::from_utf8(line).map_err(|_| malformed("it is not ASCII"))?;
    let mut words = line.split(' ').skip(1);
    let family = words.next().unwrap_or_default();
    if family == "UNKNOWN" {
        return Ok(ProxyHeader::default());
    }
    let mut address = || words.next().and_then(|word| word.parse::<IpAddr>().ok());
    let addresses = address().zip(address());
    let mut port = || words.next().and_then(|word| word.parse::<u16>().ok());
    let ports = port().zip(port());
    if words.next().is_some() {
        return Err(malformed("it has too many words"));
    }
    match (family, addresses, ports) {
        ("TCP4", Some((client @ IpAddr::V4(_), IpAddr::V4(_))), Some((port, _)))
        | ("TCP6", Some((client @ IpAddr::V6(_), IpAddr::V6(_))), Some((port, _))) => {
            let client = Some(SocketAddr::new(client, port));
            Ok(ProxyHeader { client, ..ProxyHeader::default() })
        }
        _ => Err(malformed("it has no addresses of its family")),
    }
}

fn parse_v2(version_command: u8, family: u8, body: &[u8]) -> Result<ProxyHeader, ProxyError> {
    let malformed = |what| ProxyError::Malformed { what };
    match version_command {
        // The proxy speaks for itself: a health check.
        0x20 => return Ok(ProxyHeader::default()),
        0x21 => {}
        _ => return Err(malformed("its version or command is unknown")),
    }
    let short = malformed("it ends before its addresses");
    let (client, address_bytes) = match family {
        0x00 => (None, 0),
        0x11 => {
            let (address, ports) = body.split_first_chunk::<8>().ok_or(short)?;
            let address = Ipv4Addr::from([address[0], address[1], address[2], address[3]]);
            (Some(SocketAddr::new(address.into(), first_port(ports)?)), 12)
        }
        0x21 => {
            let (address, rest) = body.split_first_chunk::<16>().ok_or(short)?;
            let ports = rest.get(16..).unwrap_or_default();
            let address = Ipv6Addr::from(*address).to_canonical();
            (Some(SocketAddr::new(address, first_port(ports)?)), 36)
        }
        _ => return Err(malformed("its family is neither TCP over IPv4 nor TCP over IPv6")),
    };
    let mut header = ProxyHeader { client, ..ProxyHeader::default() };
    // Behind addresses of no known family nothing is to be understood.
    if header.client.is_some() {
        for_each_value(&body[address_bytes..], |kind, value| match kind {
            TLV_SSL => read_ssl(value, &mut header),
            _ => Ok(()),
        })?;
    }
    Ok(header)
}

/// Returns the source port in front of the destination's.
fn first_port(ports: &[u8]) -> Result<u16, ProxyError> {
    match ports {
        [high, low, _, _, ..] => Ok(u16::from_be_bytes([*high, *low])),
        _ => Err(ProxyError::Malformed { what: "it ends before its ports" }),
    }
}

/// Shows every type and value of a list of them.
fn for_each_value(
    mut list: &[u8],
    mut each: impl FnMut(u8, &[u8]) -> Result<(), ProxyError>,
) -> Result<(), ProxyError> {
    while let [kind, rest @ ..] = list {
        let malformed = ProxyError::Malformed { what: "a value ends behind it" };
        let [high, low, rest @ ..] = rest else { return Err(malformed) };
        let bytes = usize::from(u16::from_be_bytes([*high, *low]));
        let (value, rest) = rest.split_at_checked(bytes).ok_or(malformed)?;
        each(*kind, value)?;
        list = rest;
    }
    Ok(())
}

/// The client's connection to the proxy: flags, whether its certificate was verified (0), and values of its own.
fn read_ssl(value: &[u8], header: &mut ProxyHeader) -> Result<(), ProxyError> {
    let Some(([flags, verified @ ..], values)) = value.split_first_chunk::<5>() else {
        return Err(ProxyError::Malformed { what: "its TLS value is too short" });
    };
    header.is_encrypted = flags & CLIENT_SSL != 0;
    let has_certificate = flags & CLIENT_CERTIFICATE != 0 && *verified == [0; 4];
    for_each_value(values, |kind, value| {
        if kind == TLV_SSL_COMMON_NAME && has_certificate {
            let name = str::from_utf8(value);
            let name = name.map_err(|_| ProxyError::Malformed { what: "a name is not UTF-8" })?;
            let common_name = Some(name.to_owned());
            header.certificate =
                Some(CertificateIdentity { common_name, ..CertificateIdentity::default() });
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, body].concat()
    }

    fn tcp4(values: &[u8]) -> Vec<u8> {
        let addresses = [192, 0, 2, 1, 198, 51, 100, 1, 0x9C, 0x40, 0x07, 0x5B];
        v2(0x21, 0x11, &[&addresses[..], values].concat())
    }

    /// Returns what was read and what was left behind it.
    async fn read_all(bytes: &[u8]) -> (Result<ProxyHeader, ProxyError>, Vec<u8>) {
        let mut rest = bytes;
        let header = read(&mut rest).await;
        (header, rest.to_vec())
    }

    #[tokio::test]
    async fn both_versions_say_the_clients_address_and_leave_what_follows() {
        let v6: Vec<u8> = [
            &Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).octets()[..],
            &[0; 16],
            &[0x9C, 0x40, 0x07, 0x5B],
        ]
        .concat();
        for (header, client) in [
            (b"PROXY TCP4 192.0.2.1 198.51.100.1 40000 1883\r\n".to_vec(), "192.0.2.1:40000"),
            (b"PROXY TCP6 2001:db8::1 ::1 40000 1883\r\n".to_vec(), "[2001:db8::1]:40000"),
            (tcp4(&[]), "192.0.2.1:40000"),
            (tcp4(&[0x04, 0, 2, 9, 9]), "192.0.2.1:40000"),
            (v2(0x21, 0x21, &v6), "[2001:db8::1]:40000"),
        ] {
            let (read, rest) = read_all(&[&header[..], b"\x10mqtt"].concat()).await;
            let expected =
                ProxyHeader { client: Some(client.parse().unwrap()), ..ProxyHeader::default() };
            assert_eq!(read.unwrap(), expected);
            assert_eq!(rest, b"\x10mqtt");
        }
    }

    #[tokio::test]
    async fn a_proxy_that_speaks_for_itself_names_no_client() {
        for header in [
            b"PROXY UNKNOWN\r\n".to_vec(),
            b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n".to_vec(),
            v2(0x20, 0x00, &[]),
            v2(0x20, 0x11, &[1; 12]),
            v2(0x21, 0x00, &[7; 3]),
        ] {
            assert_eq!(read_all(&header).await.0.unwrap(), ProxyHeader::default());
        }
    }

    #[tokio::test]
    async fn the_name_of_a_verified_certificate_is_taken_and_of_no_other() {
        let ssl = |flags: u8, verified: u8| {
            let name = [&[TLV_SSL_COMMON_NAME, 0, 8][..], b"device-7"].concat();
            let value = [&[flags, 0, 0, 0, verified][..], &name].concat();
            tcp4(&[&[TLV_SSL, 0, u8::try_from(value.len()).unwrap()][..], &value].concat())
        };
        for (flags, verified, encrypted, named) in [
            (0x07, 0, true, true),
            (0x03, 0, true, true),
            (0x01, 0, true, false),
            (0x07, 1, true, false),
            (0x00, 0, false, false),
        ] {
            let header = read_all(&ssl(flags, verified)).await.0.unwrap();
            let name = header.certificate.and_then(|certificate| certificate.common_name);
            assert_eq!(header.is_encrypted, encrypted, "{flags} {verified}");
            assert_eq!(name.as_deref(), named.then_some("device-7"), "{flags} {verified}");
        }
    }

    #[tokio::test]
    async fn what_is_no_header_or_a_broken_one_is_refused() {
        for (bytes, said) in [
            (b"\x10\x20\x00\x04MQTT\x05\x02\x00\x3C".to_vec(), "no PROXY header"),
            (b"PROXY TCP4 1.2.3.4\r\n".to_vec(), "addresses"),
            (b"PROXY TCP4 ::1 ::1 1 2\r\n".to_vec(), "addresses"),
            (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n".to_vec(), "too many"),
            (b"PROXY TCP4 1.2.3.4 1.2.3.4 70000 2\r\n".to_vec(), "addresses"),
            ([b"PROXY UNKNOWN ".to_vec(), vec![b'x'; 200]].concat(), "at most 107"),
            (v2(0x11, 0x11, &[0; 12]), "version"),
            (v2(0x22, 0x11, &[0; 12]), "version"),
            (v2(0x21, 0x12, &[0; 12]), "family"),
            (v2(0x21, 0x11, &[0; 7]), "addresses"),
            (v2(0x21, 0x11, &[0; 10]), "ports"),
            (v2(0x21, 0x21, &[0; 34]), "ports"),
            (tcp4(&[1]), "behind it"),
            (tcp4(&[1, 0, 9, 0]), "behind it"),
            (tcp4(&[TLV_SSL, 0, 2, 0, 0]), "too short"),
            (v2(0x21, 0x11, &[0; 4000]), "4000 bytes; at most 2048"),
            (SIGNATURE[..8].to_vec(), "lost"),
        ] {
            let error = read_all(&bytes).await.0.unwrap_err().to_string();
            assert!(error.contains(said), "{error} should say {said}");
        }
    }
}
