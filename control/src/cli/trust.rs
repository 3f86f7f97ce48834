//! Whom commands believe that it is the control server: whoever a CA of a file vouches for, or the one CA that has a
//! fingerprint. What is wrong with a certificate is said in words. Cold.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};

/// SHA-256 of a certificate, all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// As `openssl x509 -fingerprint -sha256` shows it, or without colons.
    pub fn parse(text: &str) -> Result<Fingerprint, String> {
        let digits: String = text.chars().filter(|letter| *letter != ':').collect();
        let byte = |place: usize| u8::from_str_radix(digits.get(2 * place..2 * place + 2)?, 16).ok();
        let is_hex = digits.len() == 64 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        let bytes: Option<Vec<u8>> = (0..32).map(byte).collect();
        let whole = bytes.filter(|_| is_hex).and_then(|bytes| bytes.try_into().ok());
        whole
            .map(Fingerprint)
            .ok_or_else(|| "a SHA-256 has 64 hexadecimal digits, all of which are compared".to_owned())
    }

    /// That of a certificate.
    fn of(certificate: &CertificateDer<'_>) -> Fingerprint {
        Fingerprint(digest(&SHA256, certificate).as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }
}

/// TLS with control. `ca`: a file of certificates that may vouch for it; with `fingerprint` only the one that has it, which
/// may be among those that the server sends if there is no file.
pub fn config(ca: Option<&Path>, fingerprint: Option<Fingerprint>) -> Result<ClientConfig, String> {
    let provider = Arc::new(default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone());
    let builder = builder.with_safe_default_protocol_versions().expect("the provider has what these versions need");
    let mut config = match (ca, fingerprint) {
        (None, None) => {
            return Err(
                "whom shall it believe to be control? --ca FILE, with control's ca.crt, or --fingerprint SHA256, \
                        which control says at its start"
                    .into(),
            );
        }
        (None, Some(fingerprint)) => {
            let verifier = Arc::new(Pinned { fingerprint, provider });
            builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()
        }
        (Some(path), fingerprint) => builder.with_root_certificates(roots(path, fingerprint)?).with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn roots(path: &Path, fingerprint: Option<Fingerprint>) -> Result<RootCertStore, String> {
    let wrong = |reason: &dyn std::fmt::Display| format!("--ca {}: {reason}", path.display());
    let text = std::fs::read(path).map_err(|error| wrong(&error))?;
    let mut roots = RootCertStore::empty();
    let mut is_empty = true;
    for certificate in CertificateDer::pem_slice_iter(&text) {
        let certificate = certificate.map_err(|_| wrong(&"what is in it is no certificate, or a part of one"))?;
        is_empty = false;
        if fingerprint.is_none_or(|fingerprint| fingerprint == Fingerprint::of(&certificate)) {
            roots.add(certificate).map_err(|error| wrong(&error))?;
        }
    }
    match (is_empty, roots.is_empty()) {
        (true, _) => Err(wrong(&"there is no certificate in it")),
        (_, true) => Err(wrong(&"no certificate in it has that fingerprint")),
        _ => Ok(roots),
    }
}

/// Believes whom one CA vouches for, which is sent with what it vouches for.
#[derive(Debug)]
struct Pinned {
    fingerprint: Fingerprint,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let is_it = |certificate: &&CertificateDer<'_>| Fingerprint::of(certificate) == self.fingerprint;
        let unknown = || Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let ca = intermediates.iter().find(is_it).ok_or_else(unknown)?;
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone().into_owned())?;
        // From here on it is as with a file: names, times and signatures.
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone()).build();
        let verifier = verifier.map_err(|error| Error::General(error.to_string()))?;
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Where control keeps what a client on its machine needs: its CA and the admin's token, those that are there.
pub fn in_folder(folder: &Path) -> (Option<PathBuf>, Option<PathBuf>) {
    let file = |name: &str| Some(folder.join(name)).filter(|path| path.is_file());
    (file("ca.crt"), file("admin.token"))
}

/// Why TLS does not stand, and what to do about it.
pub fn explained(error: &io::Error) -> String {
    let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) else {
        return match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => {
                "it ends the connection instead of TLS (was control started with --plaintext? Then say http://)".into()
            }
            _ => error.to_string(),
        };
    };
    let Error::InvalidCertificate(reason) = error else {
        return match error {
            Error::InvalidMessage(_) => {
                "what answers there does not speak TLS (was control started with --plaintext? Then say http://)".into()
            }
            // Each port has a protocol of its own.
            Error::AlertReceived(AlertDescription::NoApplicationProtocol) => {
                "what answers there is not control's API (is it the port for proxies? The API has 15012 if nothing else is \
                 said)"
                    .into()
            }
            _ => format!("TLS does not stand: {error}"),
        };
    };
    proxy::trust::told(reason)
}
