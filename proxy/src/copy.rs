//! The last good configuration on disk, for a start without control: written whole or not at all, and authenticated, so
//! that a torn, damaged or foreign file is not taken for rules. Who may read the key beside it may forge it: the folder is
//! this user's alone. Cold.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use aws_lc_rs::hmac;
use config::wire::envoy::service::discovery::v3::{DeltaDiscoveryResponse, Resource};
use config::wire::google::protobuf::Any;
use config::xds::TYPE;
use config::xds::client::Held;
use prost::Message as _;
use rustix::io::Errno;
use serde_json::{Value, json};

use crate::log::event;

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
    parts: Mutex<Parts>,
}

/// What it takes to write there. A disk may be full at the start, or not be writable, and be so no longer later.
#[derive(Debug, Default)]
struct Parts {
    lock: Option<File>,
    key: Option<hmac::Key>,
}

/// Why a folder cannot be used.
#[derive(Debug)]
enum Trouble {
    /// The disk does not take what is written now: nothing that keeps a proxy from serving.
    Disk(io::Error),
    /// Whoever started this shall look at it.
    Mistake(String),
}

impl Trouble {
    fn of(path: &Path, error: io::Error) -> Trouble {
        let number = error.raw_os_error().map(Errno::from_raw_os_error);
        match number {
            Some(Errno::ROFS | Errno::NOSPC | Errno::DQUOT | Errno::IO) => Trouble::Disk(error),
            _ => Trouble::Mistake(format!("{}: {error}", path.display())),
        }
    }
}

impl Folder {
    /// Opens it for a gateway, `NAMESPACE/NAME`; made if it is not there. Where its disk takes nothing now, what
    /// is there is read, and writing is tried again with each `save`.
    pub(crate) fn open(path: &Path, gateway: &str) -> Result<Folder, String> {
        let folder = Folder { path: path.into(), gateway: gateway.into(), parts: Mutex::default() };
        match folder.complete() {
            Ok(_) => {}
            Err(Trouble::Mistake(problem)) => return Err(problem),
            Err(Trouble::Disk(error)) => {
                let path = path.display();
                event("warn", &format!("{path}: {error}: what is in force cannot be kept on disk; trying again"));
            }
        }
        Ok(folder)
    }

    /// Takes what of lock and key is there, and makes what is not.
    fn complete(&self) -> Result<hmac::Key, Trouble> {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.path.join("copy.key");
        if parts.lock.is_none() {
            match make_folder(&self.path).and_then(|()| lock(&self.path)) {
                Ok(lock) => parts.lock = Some(lock),
                Err(trouble) => {
                    // Whoever cannot write can read.
                    parts.key = found(&path).ok().flatten();
                    return Err(trouble);
                }
            }
        }
        if parts.key.is_none() {
            parts.key = found(&path)?;
        }
        if let Some(key) = &parts.key {
            return Ok(key.clone());
        }
        let is_first = !path.exists() && !self.file().exists();
        let key = make(&path)?;
        if !is_first {
            let what = "was lost, or cut short by a full disk, and is made anew: a copy from before is not used";
            event("warn", &format!("{} {what}", path.display()));
        }
        parts.key = Some(key.clone());
        Ok(key)
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
        let key = self.parts.lock().unwrap_or_else(PoisonError::into_inner).key.clone();
        let key = key.ok_or_else(|| format!("{}: there is no key that vouches for it", path.display()))?;
        let copy = decode(&bytes, &self.gateway, &key).map_err(|why| format!("{}: {why}", path.display()))?;
        Ok(Some((copy, heard.unwrap_or(SystemTime::UNIX_EPOCH))))
    }

    /// Replaces what it holds; it is on disk when this returns.
    pub(crate) fn save(&self, copy: &Copy) -> io::Result<()> {
        let key = self.complete().map_err(|trouble| match trouble {
            Trouble::Disk(error) => error,
            Trouble::Mistake(problem) => io::Error::other(problem),
        })?;
        replace(&self.file(), &encode(copy, &self.gateway, &key))
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

fn make_folder(path: &Path) -> Result<(), Trouble> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|error| match error.kind() {
        // One that nobody can ever make is another than the one that was meant.
        io::ErrorKind::ReadOnlyFilesystem => Trouble::Mistake(format!("{}: {error}", path.display())),
        _ => Trouble::of(path, error),
    })
}

/// Nobody else uses the folder as long as this is open.
fn lock(folder: &Path) -> Result<File, Trouble> {
    let path = folder.join("lock");
    let open = |options: &mut OpenOptions| options.mode(0o600).open(&path);
    let file = match open(OpenOptions::new().create(true).truncate(false).write(true)) {
        // It is there, where nothing can be written any more.
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {
            open(OpenOptions::new().read(true)).map_err(|_| error)
        }
        file => file,
    };
    let file = file.map_err(|error| Trouble::of(&path, error))?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(_) => Err(Trouble::Mistake(format!("{} is in use by another process", folder.display()))),
    }
}

/// The key in a file. None: there is none, or only what a full disk or a crash left of one.
fn found(path: &Path) -> Result<Option<hmac::Key>, Trouble> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        bytes => bytes.map_err(|error| Trouble::of(path, error))?,
    };
    if bytes.len() < KEY_BYTES || bytes.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    let metadata = fs::metadata(path).map_err(|error| Trouble::of(path, error))?;
    if metadata.mode() & 0o077 != 0 || metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(Trouble::Mistake(format!("{}: others may have read or written it; remove it", path.display())));
    }
    match bytes.len() {
        KEY_BYTES => Ok(Some(hmac::Key::new(hmac::HMAC_SHA256, &bytes))),
        _ => Err(Trouble::Mistake(format!("{}: is no key; remove it", path.display()))),
    }
}

/// Makes the key of a folder, whole or not at all.
fn make(path: &Path) -> Result<hmac::Key, Trouble> {
    let mut bytes = [0; KEY_BYTES];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| Trouble::Mistake("there is no randomness".into()))?;
    replace(path, &bytes).map_err(|error| Trouble::of(path, error))?;
    Ok(hmac::Key::new(hmac::HMAC_SHA256, &bytes))
}

/// Puts a file in the place of another, which only its owner can read; it is on disk when this returns.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
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
    use std::os::unix::fs::PermissionsExt as _;
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
    fn a_key_is_whole_or_none() {
        let folder = std::env::temp_dir().join(format!("evenkeel-copy-{}", std::process::id()));
        let path = folder.join("copy.key");
        let copy = Copy { revision: 3, taken_ms: 5, held: Vec::new() };
        let first = Folder::open(&folder, "d/g").expect("a folder");
        first.save(&copy).expect("there is room");
        drop(first);
        let key = fs::read(&path).expect("a key");
        let (torn, forged) = (key[..9].to_vec(), "it is damaged or forged");
        // What is in the file, the mode it has, and what becomes of the copy, or why the folder cannot be used.
        for (bytes, mode, expected) in [
            (Some(key.clone()), 0o600, Ok("it is used")),
            (Some(Vec::new()), 0o600, Ok(forged)),
            (Some(torn.clone()), 0o600, Ok(forged)),
            (Some(torn), 0o666, Ok(forged)),
            (Some(vec![0; KEY_BYTES]), 0o600, Ok(forged)),
            (None, 0o600, Ok(forged)),
            (Some(key.clone()), 0o640, Err("others may have read or written it; remove it")),
            (Some([&*key, b"\n"].concat()), 0o600, Err("is no key; remove it")),
        ] {
            let _ = fs::remove_file(&path);
            if let Some(bytes) = &bytes {
                fs::write(&path, bytes).expect("a file");
                fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("it is ours");
            }
            let found = Folder::open(&folder, "d/g").map(|folder| match folder.load() {
                Ok(_) => "it is used".into(),
                Err(problem) => problem,
            });
            match (&found, expected) {
                (Ok(found), Ok(expected)) | (Err(found), Err(expected)) => {
                    assert!(found.contains(expected), "{bytes:?}: {found}");
                }
                _ => panic!("{bytes:?}: {found:?}"),
            }
            assert_eq!(
                fs::read(&path).expect("a key").len(),
                KEY_BYTES + usize::from(expected == Err("is no key; remove it"))
            );
        }
        fs::remove_dir_all(&folder).expect("it is ours");
    }

    #[test]
    fn a_disk_that_takes_nothing_is_no_mistake() {
        for (number, is_mistake) in [
            (Errno::ROFS, false),
            (Errno::NOSPC, false),
            (Errno::DQUOT, false),
            (Errno::IO, false),
            (Errno::ACCESS, true),
            (Errno::PERM, true),
            (Errno::NOTDIR, true),
            (Errno::ISDIR, true),
            (Errno::NAMETOOLONG, true),
        ] {
            let trouble = Trouble::of(Path::new("data"), number.into());
            assert_eq!(matches!(&trouble, Trouble::Mistake(_)), is_mistake, "{trouble:?}");
        }
        let file = std::env::temp_dir().join(format!("evenkeel-copy-file-{}", std::process::id()));
        fs::write(&file, "").expect("a file");
        for path in [file.clone(), file.join("below")] {
            assert!(Folder::open(&path, "d/g").is_err_and(|problem| problem.contains(&*file.to_string_lossy())));
        }
        fs::remove_file(&file).expect("it is ours");
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
