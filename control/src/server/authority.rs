//! The certificate that control shows, and the CA that vouches for it: made at the first start, and kept. Whom the CA is
//! given to is the operator's business. Cold.

use std::fs;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType, date_time_ymd,
};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::aws_lc_rs::{default_provider, sign::any_supported_type};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ClientHello, NoServerSessionStorage, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, Error, ServerConfig};

/// How long a certificate is good for, and how often there is a new one.
const VALID_FOR: Duration = Duration::from_secs(90 * 86_400);
const RENEWED_EVERY: Duration = Duration::from_secs(30 * 86_400);
/// How often it is looked at whether it is time for a new one: clocks are set, and stand still while a machine sleeps.
pub(crate) const LOOKED_AT_EVERY: Duration = Duration::from_secs(60);
/// Clocks that are behind shall not refuse what is new.
const VALID_BEFORE: Duration = Duration::from_secs(86_400);

/// What to do without them.
const MEND_KEY: &str = "bring ca.key back from a backup; or remove ca.crt and ca.key, control makes another CA, and \
                        everybody who connects needs its ca.crt";
const MEND_CERTIFICATE: &str = "bring ca.crt back from a backup; or remove it, it is made anew from ca.key, and \
                                whoever has the old file still believes control";

/// The CA, and the certificate of this process. That one's key is on no disk: whoever starts gets another.
#[derive(Debug)]
pub(crate) struct Authority {
    key: KeyPair,
    /// Where the CA's certificate lies, for those who shall trust it.
    pub(crate) path: PathBuf,
    /// SHA-256 of it, as `openssl x509 -fingerprint -sha256` shows it.
    pub(crate) fingerprint: String,
    /// The key was there, and the certificate is made anew.
    pub(crate) is_remade: bool,
    certificate: CertificateDer<'static>,
    names: Vec<String>,
    /// And when it was made.
    shown: RwLock<(Arc<CertifiedKey>, SystemTime)>,
}

impl Authority {
    /// Takes the CA in this folder, or makes one there.
    pub(crate) fn open(folder: &Path, names: Vec<String>) -> Result<Authority, String> {
        let (path, key_path) = (folder.join("ca.crt"), folder.join("ca.key"));
        let is_remade = key_path.exists() && !path.exists();
        let key = key(&key_path, &path)?;
        let certificate = certificate(&path, &key)?;
        let hash = digest(&SHA256, &certificate);
        let fingerprint: Vec<String> = hash.as_ref().iter().map(|byte| format!("{byte:02X}")).collect();
        let now = SystemTime::now();
        let issued = issue(&key, &certificate, &names, now)?;
        if !vouches(&certificate, &issued.cert[0], now) {
            let (path, key_path) = (path.display(), key_path.display());
            return Err(format!("{path} is not the certificate of {key_path}: bring both back from one backup"));
        }
        let shown = RwLock::new((Arc::new(issued), now));
        Ok(Authority { key, path, fingerprint: fingerprint.join(":"), is_remade, certificate, names, shown })
    }

    /// Shows a new certificate from now on, if it is time for one.
    pub(crate) fn renew(&self, now: SystemTime) -> Result<(), String> {
        let made = self.shown.read().unwrap_or_else(PoisonError::into_inner).1;
        if is_due(made, now) {
            let renewed = Arc::new(issue(&self.key, &self.certificate, &self.names, now)?);
            *self.shown.write().unwrap_or_else(PoisonError::into_inner) = (renewed, now);
        }
        Ok(())
    }
}

/// The key in a file, made if neither it nor a certificate is there.
fn key(path: &Path, certificate: &Path) -> Result<KeyPair, String> {
    match fs::read(path) {
        Ok(text) => {
            let key = std::str::from_utf8(&text).ok().and_then(|text| KeyPair::from_pem(text).ok());
            key.ok_or_else(|| format!("{} holds no key that can be read: {MEND_KEY}", path.display()))
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(format!("{}: {error}", path.display())),
        // Others would trust a CA that nobody has.
        Err(_) if certificate.exists() => {
            Err(format!("{} is there, and {} is not: {MEND_KEY}", certificate.display(), path.display()))
        }
        Err(_) => {
            let key = KeyPair::generate().map_err(|error| format!("a key cannot be made: {error}"))?;
            write_secret(path, &key.serialize_pem())?;
            Ok(key)
        }
    }
}

/// The certificate in a file, made if it is not there. Whoever trusts one that was lost trusts a name and a key (RFC
/// 5280 6.1.1), which are those of the new one.
fn certificate(path: &Path, key: &KeyPair) -> Result<CertificateDer<'static>, String> {
    match fs::read(path) {
        Ok(text) => {
            let found = CertificateDer::from_pem_slice(&text).ok();
            let found = found.filter(|found| rustls::RootCertStore::empty().add(found.clone()).is_ok());
            found.ok_or_else(|| format!("{} holds no certificate of a CA: {MEND_CERTIFICATE}", path.display()))
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(format!("{}: {error}", path.display())),
        Err(_) => {
            let made = ca().self_signed(key).map_err(|error| format!("a CA cannot be made: {error}"))?;
            write_secret(path, &made.pem())?;
            Ok(made.der().clone())
        }
    }
}

/// Whether a CA's certificate is that of the key by which another was signed, whatever clocks have to do with it.
fn vouches(authority: &CertificateDer<'static>, issued: &CertificateDer<'_>, now: SystemTime) -> bool {
    let mut roots = rustls::RootCertStore::empty();
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let algorithms = default_provider().signature_verification_algorithms;
    let verified = roots.add(authority.clone()).and_then(|()| {
        let issued = ParsedCertificate::try_from(issued)?;
        verify_server_cert_signed_by_trust_anchor(
            &issued,
            &roots,
            &[],
            UnixTime::since_unix_epoch(since),
            algorithms.all,
        )
    });
    use CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
    let is_of_clocks =
        |reason: &_| matches!(reason, Expired | NotValidYet | ExpiredContext { .. } | NotValidYetContext { .. });
    match verified {
        Ok(()) => true,
        Err(Error::InvalidCertificate(reason)) => is_of_clocks(&reason),
        Err(_) => false,
    }
}

/// Whether a certificate that was made then has been shown for long enough, or the clock was set back so far that others
/// might not believe it any more.
fn is_due(made: SystemTime, now: SystemTime) -> bool {
    match now.duration_since(made) {
        Ok(age) => age >= RENEWED_EVERY,
        Err(ahead) => ahead.duration() >= VALID_BEFORE / 2,
    }
}

impl ResolvesServerCert for Authority {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.shown.read().unwrap_or_else(PoisonError::into_inner).0.clone())
    }
}

/// TLS for one protocol.
pub(crate) fn config(authority: Arc<Authority>, protocol: &str) -> Arc<ServerConfig> {
    let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()));
    let builder = builder.with_safe_default_protocol_versions().expect("the provider has what these versions need");
    let mut config = builder.with_no_client_auth().with_cert_resolver(authority);
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    // Connections live long: what it would take to resume them is memory for nothing.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Arc::new(config)
}

/// What control is called wherever it runs: this machine, from itself, and what its operator says.
pub(crate) fn names(host: &str, addresses: &[IpAddr], given: &[String]) -> Vec<String> {
    let own = [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)];
    let addresses = own.iter().chain(addresses).filter(|address| !address.is_unspecified()).map(IpAddr::to_string);
    let mut names: Vec<String> = ["localhost", host].map(String::from).into_iter().chain(addresses).collect();
    names.extend(given.iter().cloned());
    let mut seen = std::collections::BTreeSet::new();
    names.retain(|name| !name.is_empty() && seen.insert(name.clone()));
    names
}

/// Without an end: it is trusted for as long as its file is given away (RFC 5280 4.1.2.5).
fn ca() -> CertificateParams {
    let mut ca = CertificateParams::default();
    (ca.not_before, ca.not_after) = (date_time_ymd(2026, 1, 1), date_time_ymd(9999, 12, 31));
    ca.distinguished_name.push(DnType::CommonName, "evenkeel control CA");
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    ca
}

fn issue(
    key: &KeyPair,
    authority: &CertificateDer<'static>,
    names: &[String],
    now: SystemTime,
) -> Result<CertifiedKey, String> {
    let failed = |error: &dyn std::fmt::Display| format!("a certificate cannot be made: {error}");
    let mut server = CertificateParams::default();
    for name in names {
        let no_name = || format!("{name:?} is no name of a server");
        server.subject_alt_names.push(match ServerName::try_from(&**name).map_err(|_| no_name())? {
            ServerName::IpAddress(address) => SanType::IpAddress(address.into()),
            _ => SanType::DnsName(name.as_str().try_into().map_err(|_| no_name())?),
        });
    }
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let epoch = date_time_ymd(1970, 1, 1);
    server.not_before = epoch + since.saturating_sub(VALID_BEFORE);
    server.not_after = epoch + since + VALID_FOR;
    server.distinguished_name.push(DnType::CommonName, "evenkeel control");
    server.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    server.use_authority_key_identifier_extension = true;
    let own = KeyPair::generate().map_err(|error| failed(&error))?;
    let issuer = ca();
    let made = server.signed_by(&own, &Issuer::from_params(&issuer, key)).map_err(|error| failed(&error))?;
    let own = PrivateKeyDer::try_from(own.serialize_der()).map_err(|error| failed(&error))?;
    let own = any_supported_type(&own).map_err(|error| failed(&error))?;
    // The CA is shown, too: there are those who know nothing but its fingerprint.
    Ok(CertifiedKey::new(vec![made.der().clone(), authority.clone()], own))
}

/// Makes the folder of everything that control keeps. One that is there is as its owner wants it.
pub(crate) fn make_folder(folder: &Path) -> Result<(), String> {
    if folder.is_dir() {
        return Ok(());
    }
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|error| format!("{}: {error}", folder.display()))
}

/// Writes a file that only its owner can read, whole or not at all.
pub(crate) fn write_secret(path: &Path, text: &str) -> Result<(), String> {
    let written = || {
        let next = path.with_extension("next");
        let mut options = fs::OpenOptions::new();
        // What a start that was cut short left behind.
        let _ = fs::remove_file(&next);
        let mut file = options.write(true).create_new(true).mode(0o600).open(&next)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&next, path)?;
        fs::File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    };
    written().map_err(|error: io::Error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::ServerCertVerifier;

    use super::*;

    #[test]
    fn a_server_has_the_names_of_its_machine_and_those_it_is_given() {
        let addresses: Vec<IpAddr> =
            ["0.0.0.0", "10.1.2.3", "127.0.0.1"].map(|text| text.parse().expect("an address")).into();
        let given = ["mesh.example".to_owned(), "localhost".to_owned()];
        let expected = ["localhost", "host", "127.0.0.1", "::1", "10.1.2.3", "mesh.example"];
        assert_eq!(names("host", &addresses, &given), expected);
        assert_eq!(names("", &[], &[]), ["localhost", "127.0.0.1", "::1"]);
    }

    #[test]
    fn clocks_that_are_apart_believe_each_other() {
        let key = KeyPair::generate().expect("a key");
        let authority = ca().self_signed(&key).expect("a CA").der().clone();
        let made = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let shown = issue(&key, &authority, &["a.test".into()], made).expect("a certificate");
        let mut roots = rustls::RootCertStore::empty();
        roots.add(authority.clone()).expect("a CA");
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::new(default_provider()));
        let verifier = verifier.build().expect("a verifier");
        let name = ServerName::try_from("a.test").expect("a name");
        let hour = 3_600;
        // By how many seconds the clock of whoever looks is ahead, just after it was made and just before it is renewed.
        for (ahead, is_good) in
            [(0, [true, true]), (-23 * hour, [true; 2]), (23 * hour, [true; 2]), (-25 * hour, [false, true])]
        {
            let seen = [0, RENEWED_EVERY.as_secs()].map(|age| {
                let now =
                    UnixTime::since_unix_epoch(Duration::from_secs((1_800_000_000 + age).saturating_add_signed(ahead)));
                verifier.verify_server_cert(&shown.cert[0], &shown.cert[1..], &name, &[], now).is_ok()
            });
            assert_eq!(seen, is_good, "{ahead}");
        }
    }

    #[test]
    fn a_ca_is_made_once_and_its_key_is_nobody_elses() {
        let folder = std::env::temp_dir().join(format!("evenkeel-authority-{}", std::process::id())).join("data");
        make_folder(&folder).expect("a folder");
        let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
        let first = Authority::open(&folder, vec!["a.test".into()]).expect("a CA");
        let shown = first.shown.read().expect("a lock").0.cert[0].clone();
        assert_eq!((mode(&folder), mode(&folder.join("ca.key")), mode(&first.path)), (0o700, 0o600, 0o600));
        assert_eq!(first.fingerprint.len(), 32 * 3 - 1);
        let second = Authority::open(&folder, vec!["a.test".into()]).expect("the same CA");
        assert_eq!(second.fingerprint, first.fingerprint);
        assert_ne!(second.shown.read().expect("a lock").0.cert[0], shown, "each start has a certificate of its own");
        let is_renewed = |now: SystemTime| {
            let before = second.shown.read().expect("a lock").0.cert[0].clone();
            second.renew(now).expect("a certificate");
            second.shown.read().expect("a lock").0.cert[0] != before
        };
        let hours = |count: u64| Duration::from_secs(count * 3_600);
        let now = SystemTime::now();
        // Clocks that are set a little make no difference; one that was wrong for years at the start does, when it is right.
        assert_eq!([now, now - hours(2), now + hours(29 * 24)].map(is_renewed), [false; 3]);
        assert_eq!([now + hours(31 * 24), now, now - hours(24 * 365)].map(is_renewed), [true; 3]);
        assert!(Authority::open(&folder, vec!["no name".into()]).is_err_and(|error| error.contains("\"no name\"")));
        fs::remove_dir_all(folder.parent().expect("ours")).expect("it is ours");
    }

    #[test]
    fn what_was_lost_is_told_and_only_a_certificate_is_made_anew() {
        let folder = std::env::temp_dir().join(format!("evenkeel-lost-{}", std::process::id()));
        make_folder(&folder).expect("a folder");
        let open = || Authority::open(&folder, vec!["a.test".into()]);
        let first = open().expect("a CA");
        let [key, certificate] = ["ca.key", "ca.crt"].map(|name| fs::read(folder.join(name)).expect("a file"));
        let other = ca().self_signed(&KeyPair::generate().expect("a key")).expect("a CA").pem().into_bytes();
        let half = |bytes: &[u8]| bytes[..bytes.len() / 2].to_vec();
        let none = || vec![0; 300];
        let no_der = b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n".to_vec();
        // Key and certificate as they are found, and what is told; "": nothing.
        for (found_key, found_certificate, expected) in [
            (Some(key.clone()), Some(certificate.clone()), ""),
            (None, Some(certificate.clone()), "ca.key is not: bring ca.key back from a backup; or"),
            (Some(half(&key)), Some(certificate.clone()), "ca.key holds no key that can be read: bring"),
            (Some(Vec::new()), Some(certificate.clone()), "ca.key holds no key that can be read"),
            (Some(none()), None, "ca.key holds no key that can be read"),
            (Some(vec![0xff; 9]), None, "ca.key holds no key that can be read"),
            (Some(certificate.clone()), None, "ca.key holds no key that can be read"),
            (Some(key.clone()), Some(half(&certificate)), "ca.crt holds no certificate of a CA: bring"),
            (Some(key.clone()), Some(Vec::new()), "ca.crt holds no certificate of a CA"),
            (Some(key.clone()), Some(none()), "ca.crt holds no certificate of a CA"),
            (Some(key.clone()), Some(key.clone()), "ca.crt holds no certificate of a CA"),
            (Some(key.clone()), Some(no_der), "ca.crt holds no certificate of a CA"),
            (Some(key.clone()), Some(other), "ca.key: bring both back from one backup"),
        ] {
            for (name, bytes) in [("ca.key", found_key), ("ca.crt", found_certificate)] {
                let _ = fs::remove_file(folder.join(name));
                if let Some(bytes) = bytes {
                    fs::write(folder.join(name), bytes).expect("a file");
                }
            }
            let told = open().map_or_else(|told| told, |_| String::new());
            assert!(told.contains(expected) && told.is_empty() == expected.is_empty(), "{expected}: {told}");
        }
        // It is another certificate, and who trusts the first one believes it.
        fs::write(folder.join("ca.key"), &key).expect("a file");
        fs::remove_file(folder.join("ca.crt")).expect("it is ours");
        let second = open().expect("a CA");
        assert_eq!((first.is_remade, second.is_remade, open().expect("a CA").is_remade), (false, true, false));
        assert_ne!(second.fingerprint, first.fingerprint);
        let mut roots = rustls::RootCertStore::empty();
        roots.add(first.certificate).expect("a CA");
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::new(default_provider()));
        let shown = second.shown.read().expect("a lock").0.clone();
        let name = ServerName::try_from("a.test").expect("a name");
        let verifier = verifier.build().expect("a verifier");
        let verified = verifier.verify_server_cert(&shown.cert[0], &shown.cert[1..], &name, &[], UnixTime::now());
        verified.expect("the same CA");
        fs::remove_dir_all(&folder).expect("it is ours");
    }
}
