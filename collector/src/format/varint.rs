//! Numbers as bytes: LEB128, signed differences, and lengths in whole blocks where they are that.

use super::damaged;
use crate::block::BLOCK;
use crate::error::Result;

/// Reads from a slice; every read past the end is an error.
pub struct Reader<'a> {
    left: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Over all of `bytes`.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { left: bytes }
    }

    /// The next `len` bytes.
    pub fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let (head, left) = self.left.split_at_checked(len).ok_or_else(|| damaged("object ends too early"))?;
        self.left = left;
        Ok(head)
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (head, left) = self.left.split_first_chunk().ok_or_else(|| damaged("object ends too early"))?;
        self.left = left;
        Ok(*head)
    }

    /// A little-endian `u16`.
    pub fn u16(&mut self) -> Result<u16> {
        self.array().map(u16::from_le_bytes)
    }

    /// A little-endian `u32`.
    pub fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// A little-endian `u64`.
    pub fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// A LEB128 number of at most 64 bits.
    pub fn varint(&mut self) -> Result<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(damaged("number longer than 64 bits"))
    }

    /// A number that [`put_unit`] wrote.
    pub fn unit(&mut self) -> Result<u64> {
        let value = self.varint()?;
        if value & 1 == 1 {
            return Ok(value >> 1);
        }
        (value >> 1).checked_mul(BLOCK).ok_or_else(|| damaged("length beyond 64 bits"))
    }

    /// A difference that [`put_signed`] wrote.
    pub fn signed(&mut self) -> Result<i64> {
        self.varint().map(unzigzag)
    }

    /// A difference that [`put_signed_unit`] wrote.
    pub fn signed_unit(&mut self) -> Result<i64> {
        let value = self.varint()?;
        let number = unzigzag(value >> 1);
        if value & 1 == 1 {
            return Ok(number);
        }
        number.checked_mul(BLOCK as i64).ok_or_else(|| damaged("distance beyond 64 bits"))
    }

    /// Nothing is left.
    ///
    /// # Errors
    /// If something is.
    pub fn end(self) -> Result<()> {
        if self.left.is_empty() { Ok(()) } else { Err(damaged("object has bytes after its end")) }
    }
}

/// Appends `value` as LEB128.
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends `value < 2^63`: twice the number of blocks, or if it is no multiple of a block, twice the bytes plus one.
pub fn put_unit(out: &mut Vec<u8>, value: u64) {
    put_varint(out, if value.is_multiple_of(BLOCK) { value / BLOCK * 2 } else { value << 1 | 1 });
}

/// Appends a difference, small in either direction.
pub fn put_signed(out: &mut Vec<u8>, value: i64) {
    put_varint(out, zigzag(value));
}

/// Appends a difference of at most 2^62 in either direction, in blocks where it is whole blocks.
pub fn put_signed_unit(out: &mut Vec<u8>, value: i64) {
    let whole = value % BLOCK as i64 == 0;
    put_varint(out, if whole { zigzag(value / BLOCK as i64) << 1 } else { zigzag(value) << 1 | 1 });
}

const fn zigzag(value: i64) -> u64 {
    (value << 1 ^ value >> 63) as u64
}

const fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FAR: i64 = 1 << 61;

    proptest! {
        #[test]
        fn numbers_survive(a: u64, b in 0u64..1 << 62, c: i64, d in -FAR..FAR, blocks in -1000i64..1000) {
            let mut out = Vec::new();
            put_varint(&mut out, a);
            put_unit(&mut out, b);
            put_unit(&mut out, b / 4096 * 4096);
            put_signed(&mut out, c);
            put_signed_unit(&mut out, d);
            put_signed_unit(&mut out, blocks * 4096);
            let mut r = Reader::new(&out);
            prop_assert_eq!(r.varint().unwrap(), a);
            prop_assert_eq!(r.unit().unwrap(), b);
            prop_assert_eq!(r.unit().unwrap(), b / 4096 * 4096);
            prop_assert_eq!(r.signed().unwrap(), c);
            prop_assert_eq!(r.signed_unit().unwrap(), d);
            prop_assert_eq!(r.signed_unit().unwrap(), blocks * 4096);
            r.end().unwrap();
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let mut r = Reader::new(&bytes);
            while r.signed_unit().is_ok() && r.unit().is_ok() && r.varint().is_ok() {}
        }
    }

    #[test]
    fn ten_bytes_are_the_longest_number() {
        let mut longest = vec![0xff; 9];
        longest.push(1);
        assert_eq!(Reader::new(&longest).varint().unwrap(), u64::MAX);
        longest[9] = 2;
        assert!(Reader::new(&longest).varint().is_err());
        assert!(Reader::new(&[0x80; 20]).varint().is_err());
        assert!(Reader::new(&[]).varint().is_err());
    }
}
