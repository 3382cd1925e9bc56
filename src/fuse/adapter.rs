//! From FUSE requests to [`Filesystem`] and back.
//!
//! Nothing here waits for the network: see `read`. A handler that panics answers EIO and the rest goes on;
//! fuser would lose the thread.

use std::ffi::OsStr;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, FopenFlags, Generation, INodeNo,
    InitFlags, IoctlFlags, KernelConfig, LockOwner, OpenAccMode, OpenFlags, PollEvents, PollFlags,
    PollNotifier, RenameFlags, ReplyAttr, ReplyBmap, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLock, ReplyLseek, ReplyOpen, ReplyPoll,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use tokio::runtime::Handle;

use crate::content::DirectFile;
use crate::fs::{Attributes, Filesystem, FsError, FsResult, Handed, OpenFiles, OpenMode};
use crate::layer::FileBody;
use crate::tree::Ino;

use super::buffers::with_buffer;
use super::convert::{TTL, errno, file_attr, file_type, no_entry};
use super::device::{Backing, Device};
use super::greeting::Greeting;
use super::requests::{Operation, Request as Asked};
use super::tuning;

/// No state hangs on a handle: everything follows from the inode.
const NO_HANDLE: FileHandle = FileHandle(0);

/// The handle of an open that is not counted, so that its release is not either.
const NOT_COUNTED: FileHandle = FileHandle(1);

/// Inode numbers are never given to another inode.
const GENERATION: Generation = Generation(0);

/// See the module's text. Clones are the same mount, each for a queue of its own.
#[derive(Clone, Debug)]
pub(super) struct Adapter {
    fs: Arc<Filesystem>,
    open_files: Arc<OpenFiles<Backing>>,
    device: Device,
    runtime: Handle,
    /// What was agreed upon with the kernel.
    greeting: Arc<OnceLock<Greeting>>,
    /// Whether the kernel takes files to read by itself.
    passthrough: Arc<AtomicBool>,
    /// After this a read is answered, whatever happens.
    read_limit: Option<Duration>,
}

impl Adapter {
    pub(super) fn new(
        fs: Arc<Filesystem>,
        open_files: Arc<OpenFiles<Backing>>,
        device: Device,
        runtime: Handle,
    ) -> Self {
        let read_limit = tuning::read_limit();
        let (greeting, passthrough) = Default::default();
        Self { fs, open_files, device, runtime, greeting, passthrough, read_limit }
    }

    /// What was agreed upon with the kernel, once it has greeted.
    pub(super) fn greeting(&self) -> Option<Greeting> {
        self.greeting.get().copied()
    }

    fn kernel_opens_directories(&self) -> bool {
        self.greeting().is_some_and(|greeting| greeting.agreed(InitFlags::FUSE_NO_OPENDIR_SUPPORT))
    }

    pub(super) fn filesystem(&self) -> &Arc<Filesystem> {
        &self.fs
    }

    fn open_file(&self, ino: Ino, unique: u64, reply: ReplyOpen) {
        // The kernel opens files of this mount by itself from then on, with the page cache kept (linux/fuse.h,
        // FUSE_NO_OPEN_SUPPORT): two requests less for each of what may be a hundred thousand files.
        if self.fs.has_only_small_files() && self.open_files.began_with_none() {
            return reply.error(Errno::ENOSYS);
        }
        // Content may start tasks.
        let _runtime = self.runtime.enter();
        let file = match self.fs.opened(ino) {
            Ok(file) => file,
            Err(error) => return reply.error(errno(&error)),
        };
        let cached = FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH;
        if !self.open_files.counts(ino, file.size) {
            return reply.opened(NOT_COUNTED, cached);
        }
        match self.open_files.open(ino, unique, || self.hand_over(&file)) {
            OpenMode::Cached => reply.opened(NO_HANDLE, cached),
            OpenMode::Direct(handed) => {
                handed.backing.opened(reply, NO_HANDLE, FopenFlags::FOPEN_NOFLUSH);
            }
        }
    }

    /// Gives `file` to the kernel, if it is complete and the kernel takes it.
    fn hand_over(&self, file: &FileBody) -> Option<Handed<Backing>> {
        if !self.passthrough.load(Ordering::Relaxed) {
            return None;
        }
        let DirectFile { file, kept } = self.fs.content().direct(file)?;
        match self.device.register(&file) {
            Ok(backing) => Some(Handed { backing, kept }),
            Err(error) => {
                // Without the privilege, or with a cache on a stacked file system, it never works; a lack
                // of memory or descriptors passes.
                if !is_passing(&error) {
                    self.passthrough.store(false, Ordering::Relaxed);
                }
                tracing::debug!("the kernel does not take a cache file ({error}), so it is read through us");
                None
            }
        }
    }

    /// Answers as soon as the tree has grown far enough, in a task of its own.
    fn when_known<T: Send + 'static>(
        &self,
        operation: impl FnMut(&Filesystem) -> FsResult<T> + Send + 'static,
        answer: impl FnOnce(FsResult<T>) + Send + 'static,
    ) {
        let (fs, limit) = (Arc::clone(&self.fs), self.read_limit);
        self.runtime.spawn(async move { answer(fs.when_known(limit, operation).await) });
    }

    fn read_file(&self, ino: Ino, offset: u64, length: u32, reply: ReplyData, asked: Asked) {
        let _runtime = self.runtime.enter();
        let (answer, reply) =
            with_buffer(length as usize, |buffer| match self.fs.read_cached(ino, offset, length, buffer) {
                Ok(true) => {
                    reply.data(buffer);
                    (Ok(true), None)
                }
                other => (other, Some(reply)),
            });
        let Some(reply) = reply else { return };
        if let Err(error) = answer {
            return reply.error(errno(&error));
        }
        let (fs, read_limit) = (Arc::clone(&self.fs), self.read_limit);
        self.runtime.spawn(async move {
            match fs.read(ino, offset, length, read_limit).await {
                Ok(bytes) => reply.data(&bytes),
                Err(error) => reply.error(errno(&error)),
            }
            drop(asked);
        });
    }
}

fn is_passing(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(
        error.raw_os_error().map(Errno::from_raw_os_error),
        Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::INTR)
    )
}

/// Runs a handler, which keeps what it is given until it has answered. If it panics, its reply is dropped, and a reply that
/// is dropped answers EIO.
fn guarded(operation: Operation, handler: impl FnOnce(Asked)) {
    let asked = Asked::new(operation);
    if catch_unwind(AssertUnwindSafe(|| handler(asked))).is_err() {
        tracing::error!("a bug: {} panicked; it is answered with an I/O error", operation.name());
    }
}

fn ino(number: INodeNo) -> Ino {
    Ino(number.0)
}

fn reply_bytes(result: FsResult<Vec<u8>>, size: u32, reply: ReplyXattr) {
    match result {
        Err(error) => reply.error(errno(&error)),
        Ok(bytes) => match u32::try_from(bytes.len()) {
            Ok(length) if size == 0 => reply.size(length),
            Ok(length) if length <= size => reply.data(&bytes),
            _ => reply.error(errno(&FsError::Range)),
        },
    }
}

/// How long the kernel may keep an answer that is given from now on. Nothing of a tree that still grows: then no
/// answer has to be taken back when the tree turns out to be another, and none can be on its way meanwhile.
fn ttl(fs: &Filesystem) -> Duration {
    if fs.view().is_settled() { TTL } else { Duration::ZERO }
}

/// What `name` leads to, and how long that holds.
fn lookup(fs: &Filesystem, parent: Ino, name: &OsStr) -> FsResult<(Attributes, Duration)> {
    let ttl = ttl(fs);
    fs.lookup(parent, name).map(|attributes| (attributes, ttl))
}

fn reply_entry(answer: FsResult<(Attributes, Duration)>, reply: ReplyEntry) {
    match answer {
        Ok((attributes, ttl)) => reply.entry(&ttl, &file_attr(&attributes), GENERATION),
        // It is never known of a tree that still grows that it has no such name.
        Err(FsError::NotFound) => reply.entry(&TTL, &no_entry(), GENERATION),
        Err(error) => reply.error(errno(&error)),
    }
}

fn reply_opendir(answer: FsResult<()>, reply: ReplyOpen) {
    match answer {
        Ok(()) => reply.opened(NO_HANDLE, FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE),
        Err(error) => reply.error(errno(&error)),
    }
}

fn read_only() -> Errno {
    errno(&FsError::ReadOnly)
}

impl fuser::Filesystem for Adapter {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let (passthrough, greeting) = tuning::configure(config);
        self.passthrough.store(passthrough, Ordering::Relaxed);
        // The first one is the kernel's own; any other is that one told again.
        let _ = self.greeting.set(greeting);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        guarded(Operation::Lookup, |asked| {
            let parent = ino(parent);
            match lookup(&self.fs, parent, name) {
                Err(FsError::NotYet) => {
                    let name = name.to_owned();
                    self.when_known(
                        move |fs| lookup(fs, parent, &name),
                        move |answer| {
                            reply_entry(answer, reply);
                            drop(asked);
                        },
                    );
                }
                answer => reply_entry(answer, reply),
            }
        });
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        guarded(Operation::Getattr, |_asked| {
            let ttl = ttl(&self.fs);
            match self.fs.attributes(ino(number)) {
                Ok(attributes) => reply.attr(&ttl, &file_attr(&attributes)),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn readlink(&self, _: &Request, number: INodeNo, reply: ReplyData) {
        guarded(Operation::Readlink, |_asked| match self.fs.read_link(ino(number)) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(errno(&error)),
        });
    }

    fn open(&self, request: &Request, number: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        guarded(Operation::Open, |_asked| {
            let truncates = rustix::fs::OFlags::TRUNC.bits().cast_signed();
            if flags.acc_mode() != OpenAccMode::O_RDONLY || flags.0 & truncates != 0 {
                return reply.error(read_only());
            }
            self.open_file(ino(number), request.unique().0, reply);
        });
    }

    fn read(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        guarded(Operation::Read, |asked| self.read_file(ino(number), offset, size, reply, asked));
    }

    fn release(
        &self,
        request: &Request,
        number: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        guarded(Operation::Release, |_asked| {
            if handle != NOT_COUNTED {
                self.open_files.close(ino(number), request.unique().0);
            }
            reply.ok();
        });
    }

    fn opendir(&self, _: &Request, number: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        guarded(Operation::Opendir, |asked| {
            // The kernel opens directories by itself from then on, with what it cached of them kept (linux/fuse.h,
            // FUSE_NO_OPENDIR_SUPPORT): two requests less for each. Listings come to whoever knows all of the tree, since a
            // server takes a mount over only when it does.
            if self.fs.is_complete() && self.kernel_opens_directories() {
                return reply.error(Errno::ENOSYS);
            }
            let open = move |fs: &Filesystem| fs.read_directory(ino(number), 0, |_| false);
            match open(&self.fs) {
                // Once it is open, all that it holds is known.
                Err(FsError::NotYet) => self.when_known(open, |answer| {
                    reply_opendir(answer, reply);
                    drop(asked);
                }),
                answer => reply_opendir(answer, reply),
            }
        });
    }

    fn readdir(&self, _: &Request, number: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        guarded(Operation::Readdir, |_asked| {
            let read = self.fs.read_directory(ino(number), offset, |entry| {
                let attributes = &entry.attributes;
                let kind = file_type(attributes.kind);
                !reply.add(INodeNo(attributes.ino.0), entry.next_offset, kind, entry.name)
            });
            match read {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn readdirplus(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        guarded(Operation::Readdirplus, |_asked| {
            let read = self.fs.read_directory(ino(number), offset, |entry| {
                let attributes = file_attr(&entry.attributes);
                !reply.add(attributes.ino, entry.next_offset, entry.name, &TTL, &attributes, GENERATION)
            });
            match read {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        guarded(Operation::Statfs, |_asked| {
            let statistics = self.fs.statistics();
            let (block_bytes, name_bytes_max) = (statistics.block_bytes, 255);
            reply.statfs(
                statistics.blocks,
                0,
                0,
                statistics.files,
                0,
                block_bytes,
                name_bytes_max,
                block_bytes,
            );
        });
    }

    fn getxattr(&self, _: &Request, number: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        guarded(Operation::Getxattr, |_asked| reply_bytes(self.fs.xattr(ino(number), name), size, reply));
    }

    fn listxattr(&self, _: &Request, number: INodeNo, size: u32, reply: ReplyXattr) {
        guarded(Operation::Listxattr, |_asked| reply_bytes(self.fs.xattr_names(ino(number)), size, reply));
    }

    // What the kernel does by itself once it is told that nobody else does.

    fn access(&self, _: &Request, _: INodeNo, _: AccessFlags, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn lseek(&self, _: &Request, _: INodeNo, _: FileHandle, _: i64, _: i32, reply: ReplyLseek) {
        reply.error(Errno::ENOSYS);
    }

    fn poll(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: PollNotifier,
        _: PollEvents,
        _: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn bmap(&self, _: &Request, _: INodeNo, _: u32, _: u64, reply: ReplyBmap) {
        reply.error(Errno::ENOSYS);
    }

    fn getlk(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: LockOwner,
        _: u64,
        _: u64,
        _: i32,
        _: u32,
        reply: ReplyLock,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn setlk(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: LockOwner,
        _: u64,
        _: u64,
        _: i32,
        _: u32,
        _: bool,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        _: u32,
        _: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    // What would change something. The kernel refuses most of it before it comes here.

    fn setattr(
        &self,
        _: &Request,
        _: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        reply.error(read_only());
    }

    fn mknod(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, _: u32, reply: ReplyEntry) {
        reply.error(read_only());
    }

    fn mkdir(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        reply.error(read_only());
    }

    fn unlink(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(read_only());
    }

    fn rmdir(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(read_only());
    }

    fn symlink(&self, _: &Request, _: INodeNo, _: &OsStr, _: &Path, reply: ReplyEntry) {
        reply.error(read_only());
    }

    fn rename(
        &self,
        _: &Request,
        _: INodeNo,
        _: &OsStr,
        _: INodeNo,
        _: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        reply.error(read_only());
    }

    fn link(&self, _: &Request, _: INodeNo, _: INodeNo, _: &OsStr, reply: ReplyEntry) {
        reply.error(read_only());
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        reply.error(read_only());
    }

    fn create(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, _: i32, reply: ReplyCreate) {
        reply.error(read_only());
    }

    fn setxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: &[u8], _: i32, _: u32, reply: ReplyEmpty) {
        reply.error(read_only());
    }

    fn removexattr(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(read_only());
    }

    fn fallocate(&self, _: &Request, _: INodeNo, _: FileHandle, _: u64, _: u64, _: i32, reply: ReplyEmpty) {
        reply.error(read_only());
    }

    fn copy_file_range(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        reply.error(read_only());
    }
}
