//! A disk that has no room for a moment when a test says so, and keeps what it had. For tests. Cold.

use std::io;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::StorageBackend;

/// Writes and syncs that fail in a row.
const FAILING: i64 = 3;

/// What all openings of it share.
#[derive(Debug, Clone, Default)]
pub struct Faulty(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    bytes: Mutex<Vec<u8>>,
    /// Writes and syncs until none fails any more; the last of them do.
    left: AtomicI64,
}

impl Faulty {
    /// A disk on which nothing fails so far.
    pub fn new() -> Faulty {
        Faulty::default()
    }

    /// From now on so many writes and syncs succeed, and then some fail.
    pub fn fill_after(&self, count: i64) {
        self.0.left.store(FAILING + count, Relaxed);
    }

    /// There is room again.
    pub fn heal(&self) {
        self.0.left.store(0, Relaxed);
    }

    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spend(&self) -> io::Result<()> {
        let left = self.0.left.load(Relaxed);
        if left <= 0 {
            return Ok(());
        }
        self.0.left.fetch_sub(1, Relaxed);
        if left > FAILING { Ok(()) } else { Err(io::ErrorKind::StorageFull.into()) }
    }
}

impl StorageBackend for Faulty {
    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes().len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let bytes = self.bytes();
        let found = bytes.get(offset as usize..offset as usize + out.len());
        out.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.spend()?;
        self.bytes().resize(len as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.spend()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.spend()?;
        let mut bytes = self.bytes();
        let place = bytes.get_mut(offset as usize..offset as usize + data.len());
        place.ok_or(io::ErrorKind::UnexpectedEof)?.copy_from_slice(data);
        Ok(())
    }
}
