//! Data pages: checksum and LSN of one 8 KiB page.
//!
//! Owns the arithmetic only; reading pages, and reading them again when they look torn, is
//! [`crate::basebackup`]'s. Other block sizes than 8 KiB (a compile-time choice of the server) are not supported;
//! [`crate::control_file::ControlFile::check_supported`] refuses them.
//!
//! Source of the algorithm: `src/include/storage/checksum_impl.h` of the server.

use tidemark_types::Lsn;

/// Bytes in a page (`BLCKSZ`).
pub const PAGE_SIZE: usize = 8192;

/// One page as it lies in a file.
pub type Page = [u8; PAGE_SIZE];

/// The number of a block within a relation fork, counted across its segment files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockNumber(pub u32);

/// What a look at a page said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageCheck {
    /// The checksum fits.
    Valid,
    /// All zero: allocated, never initialised. Such pages carry no checksum.
    New,
    /// The checksum does not fit: torn, moved from another block, or damaged.
    Bad {
        /// What the page says.
        stored: u16,
        /// What it should say.
        computed: u16,
    },
}

/// Columns that are summed side by side.
const LANES: usize = 32;
const ROW_BYTES: usize = LANES * 4;
const FNV_PRIME: u32 = 16_777_619;

/// Where each column starts (`checksumBaseOffsets`).
const BASE_OFFSETS: [u32; LANES] = [
    0x5B1F_36E9,
    0xB852_5960,
    0x02AB_50AA,
    0x1DE6_6D2A,
    0x79FF_467A,
    0x9BB9_F8A3,
    0x217E_7CD2,
    0x83E1_3D2C,
    0xF8D4_474F,
    0xE39E_B970,
    0x42C6_AE16,
    0x9932_16FA,
    0x7B09_3B5D,
    0x98DA_FF3C,
    0xF718_902A,
    0x0B1C_9CDB,
    0xE58F_764B,
    0x1876_36BC,
    0x5D7B_3BB1,
    0xE73D_E7DE,
    0x92BE_C979,
    0xCCA6_C0B2,
    0x304A_0979,
    0x85AA_43D4,
    0x7831_25BB,
    0x6CA8_EAA2,
    0xE407_EAC6,
    0x4B5C_FC3E,
    0x9FBF_8C76,
    0x15CA_20BE,
    0xF2CA_9FD3,
    0x959B_D756,
];

/// Offset of `pd_checksum`, two bytes, in the page header.
const CHECKSUM_OFFSET: usize = 8;

/// The page's LSN: the end of the last WAL record that changed it (`pd_lsn`, two 32-bit halves, high one first).
/// Zero for new pages, and for pages that WAL never touched.
pub fn page_lsn(page: &Page) -> Lsn {
    let half = |at: usize| {
        u64::from(u32::from_le_bytes([
            page[at],
            page[at + 1],
            page[at + 2],
            page[at + 3],
        ]))
    };
    Lsn(half(0) << 32 | half(4))
}

/// The checksum that `page` must carry as block `block` of its fork.
pub fn page_checksum(page: &Page, block: BlockNumber) -> u16 {
    let mut sums = BASE_OFFSETS;
    let (rows, _) = page.as_chunks::<ROW_BYTES>();
    if let Some((first, rest)) = rows.split_first() {
        // The page is summed as if its own checksum were zero.
        let mut header = *first;
        header[CHECKSUM_OFFSET] = 0;
        header[CHECKSUM_OFFSET + 1] = 0;
        add_row(&mut sums, &header);
        for row in rest {
            add_row(&mut sums, row);
        }
    }
    for _ in 0..2 {
        add_row(&mut sums, &[0; ROW_BYTES]);
    }
    let folded = sums.iter().fold(block.0, |folded, sum| folded ^ sum);
    // Never zero, and never out of 16 bits: 1..=65535, as the server reduces it.
    let reduced = folded % u32::from(u16::MAX) + 1;
    u16::try_from(reduced).unwrap_or(u16::MAX)
}

/// Checks `page` as block `block` of its fork. Says nothing of use on a cluster without data checksums.
pub fn verify_page(page: &Page, block: BlockNumber) -> PageCheck {
    let stored = u16::from_le_bytes([page[CHECKSUM_OFFSET], page[CHECKSUM_OFFSET + 1]]);
    let computed = page_checksum(page, block);
    if stored == computed {
        PageCheck::Valid
    } else if page.iter().all(|&byte| byte == 0) {
        PageCheck::New
    } else {
        PageCheck::Bad { stored, computed }
    }
}

/// One row of the page into the columns. Written so that the compiler turns the loop into vector instructions.
#[inline(always)]
fn add_row(sums: &mut [u32; LANES], row: &[u8; ROW_BYTES]) {
    let (words, _) = row.as_chunks::<4>();
    for (sum, word) in sums.iter_mut().zip(words) {
        let mixed = *sum ^ u32::from_le_bytes(*word);
        *sum = mixed.wrapping_mul(FNV_PRIME) ^ (mixed >> 17);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(mut page: Page, block: BlockNumber) -> Page {
        let sum = page_checksum(&page, block);
        page[8..10].copy_from_slice(&sum.to_le_bytes());
        page
    }

    fn sample() -> Page {
        std::array::from_fn(|i| (i * 31 % 251) as u8)
    }

    #[test]
    fn a_sealed_page_is_valid_at_its_own_block_only() {
        let page = sealed(sample(), BlockNumber(7));
        assert_eq!(verify_page(&page, BlockNumber(7)), PageCheck::Valid);
        assert!(matches!(
            verify_page(&page, BlockNumber(8)),
            PageCheck::Bad { .. }
        ));
    }

    #[test]
    fn any_flipped_bit_is_seen() {
        let page = sealed(sample(), BlockNumber(0));
        for at in [0, 8, 9, 10, 127, 128, 4096, 8191] {
            let mut flipped = page;
            flipped[at] ^= 0x10;
            assert!(
                matches!(verify_page(&flipped, BlockNumber(0)), PageCheck::Bad { .. }),
                "byte {at}"
            );
        }
    }

    #[test]
    fn a_zero_page_is_new_and_an_almost_zero_page_is_bad() {
        let mut page = [0; PAGE_SIZE];
        assert_eq!(verify_page(&page, BlockNumber(3)), PageCheck::New);
        page[8191] = 1;
        assert!(matches!(
            verify_page(&page, BlockNumber(3)),
            PageCheck::Bad { .. }
        ));
    }

    #[test]
    fn the_lsn_is_two_halves_high_first() {
        let mut page = [0; PAGE_SIZE];
        page[0] = 0x16;
        page[4..8].copy_from_slice(&0xB374_D848u32.to_le_bytes());
        assert_eq!(page_lsn(&page).to_string(), "16/B374D848");
    }
}
