//! A map's entries in the agent's own memory (`BPF_F_MMAPABLE`): no system call for an access.

use std::{
    io,
    marker::PhantomData,
    mem::size_of,
    os::fd::{AsFd, AsRawFd as _},
    ptr::NonNull,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

use lb_common::layout::Plain;

use super::error::Error;

/// An array map of `T`, mapped into memory.
///
/// Programs read it while the agent writes. So it is written by atomic words: each one whole, and
/// none is seen before the ones that were written earlier.
pub(super) struct MappedArray<T> {
    name: &'static str,
    start: NonNull<AtomicU64>,
    len: u32,
    entries: PhantomData<T>,
}

// SAFETY: the mapping belongs to this value alone within the process, and is accessed by atomics.
unsafe impl<T> Send for MappedArray<T> {}

impl<T: Plain> MappedArray<T> {
    /// Bytes of an entry in the map, and words of it.
    const WORDS: usize = {
        assert!(
            size_of::<T>().is_multiple_of(8) && align_of::<T>() <= 4096,
            "entries of mapped arrays are whole words"
        );
        size_of::<T>() / 8
    };

    /// Maps an array map of `len` entries.
    ///
    /// # Errors
    /// If the kernel refuses: the map is not mappable, shorter, or memory is short.
    pub(super) fn new(name: &'static str, map: impl AsFd, len: u32) -> Result<Self, Error> {
        let bytes = Self::bytes(len);
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_fd().as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            let doing = format!("map {bytes} bytes of the map {name} into memory");
            return Err(Error::kernel(doing, io::Error::last_os_error()));
        }
        let start = NonNull::new(start.cast()).expect("the kernel maps nothing at address 0");
        Ok(Self { name, start, len, entries: PhantomData })
    }

    fn bytes(len: u32) -> usize {
        len as usize * Self::WORDS * 8
    }

    /// Entries.
    pub(super) fn len(&self) -> u32 {
        self.len
    }

    /// Copies all of a table that is not longer.
    pub(super) fn copy_from(&mut self, other: &Self) -> Result<(), Error> {
        (0..other.len).try_for_each(|index| self.write(index, &other.read(index)?))
    }

    /// An entry; `None` past the end.
    pub(super) fn get(&self, index: u32) -> Option<&T> {
        (index < self.len).then(|| {
            // SAFETY: within the mapping and aligned: maps begin on a page. Programs only read
            // it, and this process writes only through `&mut self`.
            unsafe { &*self.start.as_ptr().cast::<T>().add(index as usize) }
        })
    }

    /// A copy of an entry.
    ///
    /// # Errors
    /// If there is no such entry.
    pub(super) fn read(&self, index: u32) -> Result<T, Error> {
        self.get(index).copied().ok_or(Error::OutOfBounds {
            map: self.name,
            index: index.into(),
            len: self.len,
        })
    }

    /// Writes an entry, word by word.
    ///
    /// # Errors
    /// If there is no such entry.
    pub(super) fn write(&mut self, index: u32, value: &T) -> Result<(), Error> {
        self.write_part(index, 0, value)
    }

    /// Writes the part of an entry from a byte offset on.
    pub(super) fn write_part<P: Plain>(
        &mut self,
        index: u32,
        offset: usize,
        value: &P,
    ) -> Result<(), Error> {
        let source = std::ptr::from_ref(value).cast::<u64>();
        for (number, word) in self.words::<P>(index, offset)?.iter().enumerate() {
            // SAFETY: `P` has as many words, all of them initialised since it has no padding.
            let value = unsafe { source.add(number).read_unaligned() };
            word.store(value, Ordering::Release);
        }
        Ok(())
    }

    /// Writes a 32-bit field at a byte offset of an entry, at once.
    pub(super) fn write_u32(&mut self, index: u32, offset: usize, value: u32) -> Result<(), Error> {
        assert!(offset.is_multiple_of(4) && offset < size_of::<T>());
        let entry = self.words::<T>(index, 0)?.as_ptr();
        // SAFETY: within the entry and aligned, by the assertion; the program only reads it.
        let field = unsafe { AtomicU32::from_ptr(entry.cast::<u32>().cast_mut().add(offset / 4)) };
        field.store(value, Ordering::Release);
        Ok(())
    }

    fn words<P: Plain>(&self, index: u32, offset: usize) -> Result<&[AtomicU64], Error> {
        assert!(offset.is_multiple_of(8) && size_of::<P>().is_multiple_of(8));
        assert!(offset + size_of::<P>() <= size_of::<T>());
        if index >= self.len {
            let index = index.into();
            return Err(Error::OutOfBounds { map: self.name, index, len: self.len });
        }
        let first = index as usize * Self::WORDS + offset / 8;
        // SAFETY: within the mapping: the entry exists, and the part lies within the entry.
        Ok(unsafe {
            std::slice::from_raw_parts(self.start.as_ptr().add(first), size_of::<P>() / 8)
        })
    }
}

impl<T> Drop for MappedArray<T> {
    fn drop(&mut self) {
        let bytes = self.len as usize * size_of::<T>();
        // SAFETY: the mapping made in `new`, which nothing refers to any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), bytes) };
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::fd::OwnedFd};

    use lb_common::layout::{BackendRecord, Directory, Half, ServiceEntry};

    use super::*;

    fn array<T: Plain>(len: u32) -> MappedArray<T> {
        let file: File = tempfile::tempfile().unwrap();
        file.set_len(len as u64 * size_of::<T>() as u64).unwrap();
        MappedArray::new("test", OwnedFd::from(file), len).unwrap()
    }

    #[test]
    fn entries_do_not_mix() {
        let mut array = array::<ServiceEntry>(5);
        let entry = |id| ServiceEntry { key: u64::MAX, id, affinity: 1, ..ServiceEntry::default() };
        array.write(1, &entry(1)).unwrap();
        array.write(3, &entry(3)).unwrap();
        let ids: Vec<u32> = (0..5).map(|index| array.read(index).unwrap().id).collect();
        assert_eq!(ids, [0, 1, 0, 3, 0]);
        assert_eq!(array.read(3).unwrap(), entry(3));
    }

    #[test]
    fn beyond_the_end_is_an_error() {
        let mut array = array::<BackendRecord>(3);
        assert!(array.write(2, &BackendRecord::VACANT).is_ok());
        assert!(matches!(array.read(3), Err(Error::OutOfBounds { index: 3, len: 3, .. })));
        assert!(array.write(u32::MAX, &BackendRecord::VACANT).is_err());
        assert!(array.write_u32(3, 0, 1).is_err());
    }

    #[test]
    fn parts_stay_where_they_belong() {
        let mut array = array::<Directory>(1);
        let half = array.get(0).unwrap().halves[0];
        let offset = std::mem::offset_of!(Directory, halves) + size_of::<Half>();
        array.write_part(0, offset, &Half { service_seed: 7, ..half }).unwrap();
        array.write_u32(0, 4, 1).unwrap();
        let directory = array.read(0).unwrap();
        assert_eq!((directory.version, directory.active), (0, 1));
        assert_eq!(directory.halves.map(|half| half.service_seed), [0, 7]);
    }
}
