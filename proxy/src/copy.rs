//! The last good configuration on disk, for a start without control: written whole or not at all, and authenticated, so
//! that a torn, damaged or foreign file is not taken for rules. Who may read the key beside it may forge it: the folder is
//! this user's alone. Cold.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use aws_lc_rs::hmac;
use config::wire::envoy::service::discovery::v3::{DeltaDiscoveryResponse, Resource};
use config::wire::google::protobuf::Any;
use config::xds::TYPE;
use config::xds::client::Held;
use prost::Message as _;
use serde_json::{Value, json};

/// What the first line says before anything else; another number is another format.
const FORMAT: u64 = 1;
/// The largest file that is read; what control sends is bounded by less.
const BYTES_MAX: u64 = 512 << 20;
const KEY_BYTES: usize = 32;

/// A configuration as it was in force.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Copy {
    /// Control's.
    pub(crate) revision: u64,
    /// When it was put in force, in milliseconds since 1970.
    pub(crate) taken_ms: i64,
    /// By name, documents, endpoints and collections.
    pub(crate) held: Vec<(Arc<str>, Held)>,
}

/// The folder of one gateway's copy. Nobody else uses it as long as this lives.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    gateway: Arc<str>,
    key: hmac::Key,
    _lock: File,
}

impl Folder {
    /// Opens it for a gateway, `NAMESPACE/NAME`; made if it is not there.
    pub(crate) fn open(path: &Path, gateway: &str) -> Result<Folder, String> {
        let failed = |what: &Path, error: io::Error| format!("{}: {error}", what.display());
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| failed(path, error))?;
        let lock = path.join("lock");
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&lock);
        let file = file.map_err(|error| failed(&lock, error))?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| format!("{} is in use by another process", path.display()))?;
        let key = key(&path.join("copy.key"))?;
        Ok(Folder { path: path.into(), gateway: gateway.into(), key, _lock: file })
    }

    fn file(&self) -> PathBuf {
        self.path.join("last-good")
    }

    /// What it holds, and when control was last heard, if there is anything. The error says why it cannot be used.
    pub(crate) fn load(&self) -> Result<Option<(Copy, SystemTime)>, String> {
        let path = self.file();
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(|error| format!("{}: {error}", path.display()))?,
        };
        let mut bytes = Vec::new();
        let heard = file.metadata().and_then(|metadata| metadata.modified());
        file.take(BYTES_MAX).read_to_end(&mut bytes).map_err(|error| format!("{}: {error}", path.display()))?;
        let copy = decode(&bytes, &self.gateway, &self.key).map_err(|why| format!("{}: {why}", path.display()))?;
        Ok(Some((copy, heard.unwrap_or(SystemTime::UNIX_EPOCH))))
    }

    /// Replaces what it holds; it is on disk when this returns.
    pub(crate) fn save(&self, copy: &Copy) -> io::Result<()> {
        let (path, fresh) = (self.file(), self.path.join("last-good.new"));
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&fresh)?;
        file.write_all(&encode(copy, &self.gateway, &self.key))?;
        file.sync_all()?;
        fs::rename(&fresh, &path)?;
        File::open(&self.path)?.sync_all()
    }

    /// Control is heard now, and has nothing else.
    pub(crate) fn touch(&self) -> io::Result<()> {
        File::open(self.file())?.set_modified(SystemTime::now())
    }
}

/// How long ago something was, for people who read it beside a clock that may have been set since.
pub(crate) fn ago(then: SystemTime, now: SystemTime) -> String {
    if then == SystemTime::UNIX_EPOCH {
        return "nobody knows when".into();
    }
    let (time, words) = match now.duration_since(then) {
        Ok(age) => (age, "ago"),
        Err(ahead) => (ahead.duration(), "ahead of this clock"),
    };
    match time.as_secs() {
        seconds @ 0..120 => format!("{seconds} s {words}"),
        seconds @ 120..7_200 => format!("{} min {words}", seconds / 60),
        seconds @ 7_200..172_800 => format!("{} h {words}", seconds / 3_600),
        seconds => format!("{} days {words}", seconds / 86_400),
    }
}

/// The key of this folder, made at the first time.
fn key(path: &Path) -> Result<hmac::Key, String> {
    let failed = |error: io::Error| format!("{}: {error}", path.display());
    match OpenOptions::new().create_new(true).write(true).mode(0o600).open(path) {
        Ok(mut file) => {
            let mut bytes = [0; KEY_BYTES];
            aws_lc_rs::rand::fill(&mut bytes).map_err(|_| "there is no randomness".to_owned())?;
            file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(failed)?;
            Ok(hmac::Key::new(hmac::HMAC_SHA256, &bytes))
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let metadata = fs::metadata(path).map_err(failed)?;
            if metadata.mode() & 0o077 != 0 || metadata.uid() != rustix::process::geteuid().as_raw() {
                return Err(format!("{}: others may have read or written it; remove it", path.display()));
            }
            let bytes = fs::read(path).map_err(failed)?;
            match bytes.len() {
                KEY_BYTES => Ok(hmac::Key::new(hmac::HMAC_SHA256, &bytes)),
                _ => Err(format!("{}: is no key; remove it", path.display())),
            }
        }
        Err(error) => Err(failed(error)),
    }
}

/// A line about what follows, then that. What the line says is authenticated with it.
fn encode(copy: &Copy, gateway: &str, key: &hmac::Key) -> Vec<u8> {
    let resource = |(name, held): &(Arc<str>, Held)| Resource {
        name: name.to_string(),
        version: held.version.clone(),
        resource: Some(Any { type_url: TYPE.into(), value: held.body.clone() }),
    };
    let resources = copy.held.iter().map(resource).collect();
    let body = DeltaDiscoveryResponse { resources, ..DeltaDiscoveryResponse::default() }.encode_to_vec();
    let mut head = json!({
        "format": FORMAT,
        "gateway": gateway,
        "revision": copy.revision,
        "takenMs": copy.taken_ms,
        "bytes": body.len(),
    });
    head["hmac"] = json!(hex(&sign(key, &head, &body)));
    [head.to_string().as_bytes(), b"\n", &body].concat()
}

/// The error is why it is not what this gateway wrote.
fn decode(bytes: &[u8], gateway: &str, key: &hmac::Key) -> Result<Copy, String> {
    let end = bytes.iter().position(|byte| *byte == b'\n').ok_or("it is torn")?;
    let mut head: Value = serde_json::from_slice(&bytes[..end]).map_err(|_| "it is no copy")?;
    let body = &bytes[end + 1..];
    if head["format"] != FORMAT {
        return Err(format!("its format is {}, and this build knows {FORMAT}", head["format"]));
    }
    if head["gateway"] != gateway {
        return Err(format!("it is that of {}", head["gateway"]));
    }
    if head["bytes"] != body.len() {
        return Err("it is torn".into());
    }
    let signed = head.as_object_mut().and_then(|head| head.remove("hmac"));
    if signed.as_ref().and_then(Value::as_str) != Some(&*hex(&sign(key, &head, body))) {
        return Err("it is damaged or forged".into());
    }
    let response = DeltaDiscoveryResponse::decode(body).map_err(|error| error.to_string())?;
    let held = response.resources.into_iter().map(|resource| {
        let body = resource.resource.map(|any| any.value).unwrap_or_default();
        (resource.name.into(), Held { version: resource.version, body })
    });
    Ok(Copy {
        revision: head["revision"].as_u64().unwrap_or(0),
        taken_ms: head["takenMs"].as_i64().unwrap_or(0),
        held: held.collect(),
    })
}

fn sign(key: &hmac::Key, head: &Value, body: &[u8]) -> hmac::Tag {
    let mut context = hmac::Context::with_key(key);
    context.update(head.to_string().as_bytes());
    context.update(b"\n");
    context.update(body);
    context.sign()
}

fn hex(tag: &hmac::Tag) -> String {
    tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_age_makes_sense_however_clocks_are_set() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let (minute, hour, day) = (60, 3_600, 86_400);
        for (seconds, expected) in [
            (0, "0 s ago"),
            (119, "119 s ago"),
            (5 * minute, "5 min ago"),
            (3 * hour, "3 h ago"),
            (9 * day, "9 days ago"),
            // Written before the clock was set back, or by a machine that is ahead.
            (-1, "1 s ahead of this clock"),
            (-3 * hour, "3 h ahead of this clock"),
            (1_800_000_000, "nobody knows when"),
        ] {
            let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000_u64.saturating_add_signed(-seconds));
            assert_eq!(ago(then, now), expected);
        }
        // This machine has no clock of its own, and has not been told the time so far.
        let unset = SystemTime::UNIX_EPOCH + Duration::from_secs(5);
        assert_eq!(ago(now, unset), "20833 days ahead of this clock");
    }

    #[test]
    fn only_what_was_written_is_read() {
        let key = |byte: u8| hmac::Key::new(hmac::HMAC_SHA256, &[byte; KEY_BYTES]);
        let held = Held { version: "3-a".into(), body: "rules".into() };
        let copy = Copy { revision: 3, taken_ms: 1_700_000_000_000, held: vec![("Gateway/d/g".into(), held)] };
        let good = encode(&copy, "d/g", &key(1));
        assert_eq!(decode(&good, "d/g", &key(1)), Ok(copy));
        let changed = |from: &str, to: &str| {
            let text = String::from_utf8(good.clone()).expect("these are letters");
            assert!(text.contains(from));
            text.replace(from, to).into_bytes()
        };
        for (bytes, gateway, expected) in [
            (good.clone(), "d/h", "it is that of \"d/g\""),
            (good[..good.len() - 1].to_vec(), "d/g", "it is torn"),
            (good[..9].to_vec(), "d/g", "it is torn"),
            (Vec::new(), "d/g", "it is torn"),
            (b"\n".to_vec(), "d/g", "it is no copy"),
            (changed("\"revision\":3", "\"revision\":4"), "d/g", "it is damaged or forged"),
            (changed("1700000000000", "1900000000000"), "d/g", "it is damaged or forged"),
            (changed("rules", "RULES"), "d/g", "it is damaged or forged"),
            (changed("\"hmac\":\"", "\"hmac\":\"0"), "d/g", "it is damaged or forged"),
            (changed("\"format\":1", "\"format\":2"), "d/g", "its format is 2, and this build knows 1"),
        ] {
            assert_eq!(decode(&bytes, gateway, &key(1)), Err(expected.to_owned()));
        }
        assert_eq!(decode(&good, "d/g", &key(2)), Err("it is damaged or forged".into()));
        // Each byte matters.
        for place in 0..good.len() {
            let mut bytes = good.clone();
            bytes[place] ^= 1;
            assert!(decode(&bytes, "d/g", &key(1)).is_err(), "byte {place}");
        }
    }
}
