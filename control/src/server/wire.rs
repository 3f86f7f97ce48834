//! One connection, plain or TLS, and the times within which its peer must do something: begin, read what was sent, use it.
//! Cold.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};
use tokio_rustls::server::TlsStream;

use crate::server::limits::Place;

/// From the first byte until somebody who is known asks for something.
const PROVE_WITHIN: Duration = Duration::from_secs(10);
/// For a connection on which nothing is under way.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// For a peer that reads nothing of what waits for it.
const TAKE_WITHIN: Duration = Duration::from_secs(60);

/// What is known of a connection, and may end it.
#[derive(Debug)]
pub(crate) struct Link {
    /// Where it comes from.
    pub(crate) source: SocketAddr,
    /// Requests under way.
    busy: AtomicUsize,
    is_cut: AtomicBool,
    /// The peer, or its machine, has ended it.
    has_closed: AtomicBool,
    is_proved: AtomicBool,
    /// The proxy whose stream is here, by what it calls itself.
    proxy: Mutex<Option<Arc<str>>>,
    /// Whether it is to be asked at once whether it is there, and when it last said so.
    is_asked: AtomicBool,
    answered: Mutex<Option<Instant>>,
    waker: AtomicWaker,
    /// Among those who have not said who they are.
    unproved: Mutex<Option<Place<std::net::IpAddr>>>,
    /// Among all.
    _place: Place<std::net::IpAddr>,
}

impl Link {
    pub(crate) fn new(source: SocketAddr, place: Place<std::net::IpAddr>, unproved: Place<std::net::IpAddr>) -> Link {
        Link {
            source,
            busy: AtomicUsize::new(0),
            is_cut: AtomicBool::new(false),
            has_closed: AtomicBool::new(false),
            is_proved: AtomicBool::new(false),
            proxy: Mutex::default(),
            is_asked: AtomicBool::new(false),
            answered: Mutex::default(),
            waker: AtomicWaker::new(),
            unproved: Mutex::new(Some(unproved)),
            _place: place,
        }
    }

    /// Ends the connection with all that is on it.
    pub(crate) fn cut(&self) {
        self.is_cut.store(true, Relaxed);
        self.waker.wake();
    }

    /// The peer, or its machine, has ended the connection.
    pub(crate) fn note_closed(&self) {
        self.has_closed.store(true, Relaxed);
    }

    /// Whether that is so.
    pub(crate) fn has_closed(&self) -> bool {
        self.has_closed.load(Relaxed)
    }

    /// Somebody who is known is at the other end.
    pub(crate) fn prove(&self) {
        self.is_proved.store(true, Relaxed);
        *self.unproved.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.waker.wake();
    }

    /// Asks at once whether the peer is there.
    pub(crate) fn ask(&self) {
        self.is_asked.store(true, Relaxed);
        self.waker.wake();
    }

    /// Whether that is to be done.
    pub(crate) fn take_asked(&self) -> bool {
        self.is_asked.swap(false, Relaxed)
    }

    /// The peer says that it is there.
    pub(crate) fn note_answer(&self, now: Instant) {
        *self.answered.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
    }

    /// Whether it has said so since then.
    pub(crate) fn has_answered_since(&self, then: Instant) -> bool {
        self.answered.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|at| at >= then)
    }

    /// A proxy's stream has begun here. Tells whether it may: a connection is of one proxy.
    pub(crate) fn introduce(&self, proxy: &str) -> bool {
        let mut known = self.proxy.lock().unwrap_or_else(PoisonError::into_inner);
        known.get_or_insert_with(|| proxy.into()).as_ref() == proxy
    }

    /// Whether the streams that have begun here are this proxy's.
    pub(crate) fn is_of(&self, proxy: &str) -> bool {
        self.proxy.lock().unwrap_or_else(PoisonError::into_inner).as_deref() == Some(proxy)
    }

    /// Something is under way, for as long as this lives.
    pub(crate) fn enter(self: &Arc<Self>) -> Busy {
        self.busy.fetch_add(1, Relaxed);
        self.waker.wake();
        Busy(self.clone())
    }

    /// How long nothing may happen. None: something is under way, it has times of its own.
    fn patience(&self) -> Option<Duration> {
        match (self.busy.load(Relaxed), self.is_proved.load(Relaxed)) {
            (0, false) => Some(PROVE_WITHIN),
            (0, true) => Some(IDLE_MAX),
            _ => None,
        }
    }
}

/// Something under way on a connection.
#[derive(Debug)]
pub(crate) struct Busy(Arc<Link>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Relaxed);
        self.0.waker.wake();
    }
}

/// The bytes.
pub(crate) enum Stream {
    Plain(TcpStream),
    /// Large, and not there where there is no TLS.
    Tls(Box<TlsStream<TcpStream>>),
}

/// A connection.
pub(crate) struct Wire<S = Stream> {
    stream: S,
    link: Arc<Link>,
    /// Runs while nothing is under way, and for how long at most.
    idle: Option<(Duration, Pin<Box<Sleep>>)>,
    /// Runs while the peer does not read.
    stuck: Option<Pin<Box<Sleep>>>,
}

impl<S> Wire<S> {
    pub(crate) fn new(stream: S, link: Arc<Link>) -> Wire<S> {
        Wire { stream, link, idle: None, stuck: None }
    }

    pub(crate) fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// Whether it has to end by itself.
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        self.link.waker.register(context.waker());
        if self.link.is_cut.load(Relaxed) {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        match self.link.patience() {
            None => self.idle = None,
            Some(patience) => {
                if self.idle.as_ref().is_none_or(|(longest, _)| *longest != patience) {
                    self.idle = Some((patience, Box::pin(sleep(patience))));
                }
                let (_, idle) = self.idle.as_mut().expect("it is there, or was made");
                if idle.as_mut().poll(context).is_ready() {
                    return Err(io::ErrorKind::TimedOut.into());
                }
            }
        }
        Ok(())
    }

    /// What a write came to, or that it has come to nothing for too long.
    fn progress<T>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Poll::Ready(result) = &written {
            self.stuck = None;
            if result.as_ref().err().is_some_and(is_end) {
                self.link.note_closed();
            }
            return written;
        }
        let stuck = self.stuck.get_or_insert_with(|| Box::pin(sleep(TAKE_WITHIN)));
        match stuck.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

/// Whether the peer, or its machine, says that it has ended the connection: whoever is killed does not say so over TLS, too,
/// and leaves an end where none may be.
fn is_end(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), ConnectionReset | BrokenPipe | UnexpectedEof)
}

impl<S: AsyncRead + Unpin> AsyncRead for Wire<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check(context)?;
        let before = into.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, into);
        let has_closed = match &read {
            Poll::Ready(Ok(())) => into.filled().len() == before && into.remaining() > 0,
            Poll::Ready(Err(error)) => is_end(error),
            Poll::Pending => false,
        };
        if has_closed {
            self.link.note_closed();
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.progress(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.progress(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.progress(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(context);
        self.progress(context, shut)
    }
}

/// The same of whatever the bytes go through.
macro_rules! inner {
    ($self:ident . $method:ident ( $($argument:expr),* )) => {
        match $self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).$method($($argument),*),
            Stream::Tls(stream) => Pin::new(stream).$method($($argument),*),
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        inner!(self.poll_read(context, into))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        inner!(self.poll_write(context, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        inner!(self.poll_write_vectored(context, parts))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        inner!(self.poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        inner!(self.poll_shutdown(context))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::time::Instant;

    use super::*;
    use crate::server::limits::Places;

    fn wire<S>(stream: S) -> Wire<S> {
        let source = SocketAddr::from(([10, 0, 0, 1], 4_711));
        let place = || Places::new(1, 1).take(&source.ip(), 1).expect("the first");
        Wire::new(stream, Arc::new(Link::new(source, place(), place())))
    }

    /// How a read ends, and after which time. `enter` says what happens meanwhile.
    async fn silence(enter: impl AsyncFnOnce(Arc<Link>)) -> (Option<io::ErrorKind>, u64) {
        let (near, _far) = duplex(64);
        let mut wire = wire(near);
        let (link, start) = (wire.link().clone(), Instant::now());
        let mut byte = [0];
        let ended = async { tokio::join!(wire.read(&mut byte), enter(link)).0 };
        let ended = tokio::time::timeout(Duration::from_secs(600), ended).await;
        (ended.ok().and_then(Result::err).map(|error| error.kind()), start.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn silence_lasts_as_long_as_it_may() {
        use io::ErrorKind::{ConnectionAborted, TimedOut};
        let pause = |seconds| tokio::time::sleep(Duration::from_secs(seconds));
        assert_eq!(silence(async |_| {}).await, (Some(TimedOut), 10), "nobody knows who it is");
        assert_eq!(silence(async |link| link.prove()).await, (Some(TimedOut), 60), "it is known");
        let under_way = silence(async |link| {
            let _busy = link.enter();
            pause(100).await;
        });
        assert_eq!(under_way.await, (Some(TimedOut), 110), "from when nothing is under way");
        let cut = silence(async |link| {
            let _busy = link.enter();
            pause(3).await;
            link.cut();
        });
        assert_eq!(cut.await, (Some(ConnectionAborted), 3));
        let long = silence(async |link| {
            let _busy = link.enter();
            pause(900).await;
        });
        assert_eq!(long.await, (None, 600), "for as long as it takes");
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_is_told_from_silence() {
        let (near, far) = duplex(64);
        let (mut wire, mut bytes) = (wire(near), [0; 8]);
        let (read, _) = tokio::join!(tokio::time::timeout(Duration::from_secs(1), wire.read(&mut bytes)), async {});
        assert!(read.is_err() && !wire.link().has_closed(), "nobody said anything");
        drop(far);
        assert_eq!(wire.read(&mut bytes).await.map_err(|error| error.kind()), Ok(0));
        assert!(wire.link().has_closed());
    }

    /// Every step of it fails so.
    struct Broken(io::ErrorKind);

    impl AsyncRead for Broken {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Err(self.0.into()))
        }
    }

    impl AsyncWrite for Broken {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Err(self.0.into()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_killed_leaves_an_end() {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, HostUnreachable, TimedOut, UnexpectedEof};
        for (kind, expected) in [
            (ConnectionReset, true),
            (UnexpectedEof, true),
            (BrokenPipe, true),
            (TimedOut, false),
            (HostUnreachable, false),
        ] {
            let (mut reads, mut writes) = (wire(Broken(kind)), wire(Broken(kind)));
            assert!(reads.read(&mut [0; 8]).await.is_err() && writes.write(&[0; 8]).await.is_err());
            assert_eq!((reads.link().has_closed(), writes.link().has_closed()), (expected, expected), "{kind:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_reads_nothing_is_not_written_to_for_ever() {
        let (near, mut far) = duplex(64);
        let (mut wire, start) = (wire(near), Instant::now());
        assert!(wire.write_all(&[0; 64]).await.is_ok());
        // One who reads late, and then no more.
        let reader = async {
            tokio::time::sleep(Duration::from_secs(50)).await;
            far.read_exact(&mut [0; 64]).await
        };
        let (written, read) = tokio::join!(wire.write_all(&[0; 128]), reader);
        assert_eq!(written.map_err(|error| error.kind()), Err(io::ErrorKind::TimedOut));
        assert_eq!((read.is_ok(), start.elapsed().as_secs()), (true, 110));
    }
}
