//! CRC-32C bit by bit, written from its definition: what mends an input must not share the code that
//! checks it.

/// The checksum of some bytes.
pub fn of(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |register, byte| {
        (0..8).fold(register ^ u32::from(*byte), |register, _| {
            (register >> 1) ^ if register & 1 == 1 { 0x82f6_3b78 } else { 0 }
        })
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_check_value_is_right() {
        assert_eq!(super::of(b"123456789"), 0xe306_9283);
    }
}
