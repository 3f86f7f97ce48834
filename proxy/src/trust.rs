//! What is wrong with control's certificate, in words for whoever set up the machine that does not believe it. Pure, Cold.

use std::error::Error;
use std::fmt::Write as _;
use std::io;

use rustls::CertificateError;
use rustls::pki_types::UnixTime;

/// What is behind an error of a connection, if it is the certificate.
pub(crate) fn found(error: &(dyn Error + 'static)) -> Option<String> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let inner = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>());
        if let Some(rustls::Error::InvalidCertificate(reason)) = inner.or_else(|| error.downcast_ref()) {
            return Some(told(reason));
        }
        cause = error.source();
    }
    None
}

/// Why a certificate is not believed, and what to do about it.
pub fn told(reason: &CertificateError) -> String {
    match reason {
        // CAs of control have the same name: another one's signature is wrong before its issuer is unknown.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "its certificate is from another CA than the one to believe (is it another control, or was its CA made anew? \
             Compare the fingerprint that control says at its start)"
                .into()
        }
        CertificateError::NotValidForNameContext { expected, presented } => {
            let mut names = String::new();
            for name in presented {
                // As rustls writes names: DnsName("localhost").
                let bare = name.split_once('(').map_or(&**name, |(_, bare)| bare.trim_end_matches(')')).trim_matches('"');
                let _ = write!(names, "{}{bare}", if names.is_empty() { "" } else { ", " });
            }
            format!(
                "its certificate is not for {}, but for {names} (ask it by one of these, or start control with --name {})",
                expected.to_str(),
                expected.to_str()
            )
        }
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("its certificate ended at {} (are the clocks of both machines right?)", second(*not_after))
        }
        CertificateError::NotValidYetContext { not_before, .. } => {
            format!("its certificate begins at {} (are the clocks of both machines right?)", second(*not_before))
        }
        reason => format!("its certificate is not good: {reason}"),
    }
}

fn second(time: UnixTime) -> String {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(seconds).map(|time| time.to_string()).unwrap_or_default()
}
