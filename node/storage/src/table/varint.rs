//! Variable-length integers of the table format.
//!
//! Unsigned LEB128: seven bits a byte, lowest first, the high bit says that another byte follows; at
//! most ten bytes. Invariant: decoding never panics and never reads past the slice; a number that does
//! not fit 64 bits is refused. Layout: `FORMAT.md`, "Numbers".

/// Appends `value` to `out`.
pub(crate) fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Reads a number at `*at` and moves `*at` behind it. `None` when the slice ends first or the number
/// needs more than 64 bits.
#[inline]
pub(crate) fn get(data: &[u8], at: &mut usize) -> Option<u64> {
    let first = *data.get(*at)?;
    *at += 1;
    if first < 0x80 {
        return Some(u64::from(first));
    }
    let mut value = u64::from(first & 0x7f);
    let mut shift = 7;
    loop {
        let byte = *data.get(*at)?;
        *at += 1;
        if shift == 63 && byte > 1 {
            return None;
        }
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
        shift += 7;
        if shift > 63 {
            return None;
        }
    }
}

/// Reads a length or position that must fit the address space.
#[inline]
pub(crate) fn get_len(data: &[u8], at: &mut usize) -> Option<usize> {
    usize::try_from(get(data, at)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_number_comes_back(value: u64) {
            let mut out = Vec::new();
            put(&mut out, value);
            let mut at = 0;
            prop_assert_eq!(get(&out, &mut at), Some(value));
            prop_assert_eq!(at, out.len());
            for cut in 0..out.len() {
                prop_assert_eq!(get(&out[..cut], &mut 0), None);
            }
        }
    }

    #[test]
    fn too_many_bits_are_refused() {
        assert_eq!(get(&[0xff; 10], &mut 0), None);
        assert_eq!(get(&[0x80; 11], &mut 0), None);
        let mut top = [0xff; 10];
        top[9] = 1;
        assert_eq!(get(&top, &mut 0), Some(u64::MAX));
    }
}
