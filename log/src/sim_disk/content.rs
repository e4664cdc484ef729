//! The bytes of one simulated file: pages shared between images, copied when written.
//!
//! Invariant: every byte beyond the length is zero, so growing a file never shows what was there before. A page never
//! written takes no memory. Cloning is one reference count.

use std::sync::Arc;

/// What a disk writes in one piece, or tears.
pub(super) const SECTOR_BYTES: usize = 512;
const PAGE_BYTES: usize = 4096;
const SECTORS_PER_PAGE: u64 = (PAGE_BYTES / SECTOR_BYTES) as u64;

/// One sector.
pub(super) type Sector = [u8; SECTOR_BYTES];
type Page = [u8; PAGE_BYTES];

/// Length and bytes of a file.
#[derive(Clone, Default)]
pub(super) struct Content {
    len: u64,
    pages: Arc<Vec<Option<Arc<Page>>>>,
}

impl Content {
    /// Writes at a position, growing the file as needed.
    pub(super) fn write(&mut self, data: &[u8], position: u64) {
        self.len = self.len.max(position + data.len() as u64);
        self.put(data, position);
    }

    /// Writes a sector, or its first bytes, without changing the length: [`Content::set_len`] must follow.
    pub(super) fn put_sector(&mut self, sector: u64, bytes: &[u8]) {
        assert!(bytes.len() <= SECTOR_BYTES, "{} bytes are no sector", bytes.len());
        self.put(bytes, sector * SECTOR_BYTES as u64);
    }

    /// Sets the length, zeroing everything beyond it.
    pub(super) fn set_len(&mut self, len: u64) {
        self.len = len;
        let page_count = len.div_ceil(PAGE_BYTES as u64) as usize;
        if self.pages.len() > page_count {
            Arc::make_mut(&mut self.pages).truncate(page_count);
        }
        let tail = (len % PAGE_BYTES as u64) as usize;
        if tail == 0 || self.pages.len() < page_count {
            return;
        }
        let last = self.pages.last().and_then(Option::as_ref);
        if last.is_some_and(|page| page[tail..].iter().any(|&byte| byte != 0)) {
            self.page_mut(page_count - 1)[tail..].fill(0);
        }
    }

    /// Changes the bytes of a range in place; what lies beyond the length is left out.
    pub(super) fn change(&mut self, start: u64, end: u64, change: impl Fn(u64, u8) -> u8) {
        for position in start..end.min(self.len) {
            let page = (position / PAGE_BYTES as u64) as usize;
            self.grow_pages(page + 1);
            let byte = &mut self.page_mut(page)[(position % PAGE_BYTES as u64) as usize];
            *byte = change(position, *byte);
        }
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Reads what lies in the file; returns how many bytes did.
    pub(super) fn read(&self, buffer: &mut [u8], position: u64) -> usize {
        let count = self.len.saturating_sub(position).min(buffer.len() as u64) as usize;
        let mut done = 0;
        while done < count {
            let at = position + done as u64;
            let (page, within) = ((at / PAGE_BYTES as u64) as usize, at % PAGE_BYTES as u64);
            let within = within as usize;
            let step = (PAGE_BYTES - within).min(count - done);
            let target = &mut buffer[done..done + step];
            match self.pages.get(page).and_then(Option::as_ref) {
                Some(page) => target.copy_from_slice(&page[within..within + step]),
                None => target.fill(0),
            }
            done += step;
        }
        count
    }

    /// Returns one sector; zeros where nothing was written.
    pub(super) fn sector(&self, sector: u64) -> Sector {
        let mut bytes = [0; SECTOR_BYTES];
        let page = self.pages.get((sector / SECTORS_PER_PAGE) as usize).and_then(Option::as_ref);
        if let Some(page) = page {
            let within = (sector % SECTORS_PER_PAGE) as usize * SECTOR_BYTES;
            bytes.copy_from_slice(&page[within..within + SECTOR_BYTES]);
        }
        bytes
    }

    fn put(&mut self, data: &[u8], position: u64) {
        let mut done = 0;
        while done < data.len() {
            let at = position + done as u64;
            let (page, within) = ((at / PAGE_BYTES as u64) as usize, at % PAGE_BYTES as u64);
            let within = within as usize;
            let step = (PAGE_BYTES - within).min(data.len() - done);
            self.grow_pages(page + 1);
            self.page_mut(page)[within..within + step].copy_from_slice(&data[done..done + step]);
            done += step;
        }
    }

    fn grow_pages(&mut self, count: usize) {
        if self.pages.len() < count {
            Arc::make_mut(&mut self.pages).resize(count, None);
        }
    }

    fn page_mut(&mut self, page: usize) -> &mut Page {
        let slot = &mut Arc::make_mut(&mut self.pages)[page];
        Arc::make_mut(slot.get_or_insert_with(|| Arc::new([0; PAGE_BYTES])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hole_reads_as_zeros_and_the_end_cuts_the_read() {
        let mut content = Content::default();
        content.write(b"abc", 9000);

        let mut buffer = [7; 16];
        let count = content.read(&mut buffer, 8996);

        assert_eq!(&buffer[..count], b"\0\0\0\0abc");
        assert_eq!(content.read(&mut buffer, 9003), 0);
        assert_eq!(content.len(), 9003);
    }

    #[test]
    fn shrinking_and_growing_shows_zeros_and_not_the_past() {
        let mut content = Content::default();
        content.write(&[9; 10_000], 0);

        content.set_len(5000);
        content.set_len(10_000);

        let mut buffer = vec![1; 10_000];
        assert_eq!(content.read(&mut buffer, 0), 10_000);
        assert!(buffer[..5000].iter().all(|&byte| byte == 9));
        assert!(buffer[5000..].iter().all(|&byte| byte == 0));
    }

    #[test]
    fn a_clone_does_not_see_later_writes() {
        let mut content = Content::default();
        content.write(&[1; 600], 0);
        let image = content.clone();

        content.write(&[2; 600], 300);

        assert_eq!(image.len(), 600);
        assert_eq!(image.sector(0), [1; SECTOR_BYTES]);
        assert_eq!(content.sector(1)[..388], [2; 388]);
    }
}
