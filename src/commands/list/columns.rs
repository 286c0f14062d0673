//! Words and numbers in columns. What `format!` does as well, at a fraction of the cost: a large table has a hundred
//! thousand lines.

use std::net::{IpAddr, Ipv4Addr};

/// A word, and spaces up to the width.
pub fn left(text: &mut String, word: &str, width: usize) {
    text.push_str(word);
    pad(text, word.chars().count(), width);
}

/// A number, and spaces up to the width.
pub fn number_left(text: &mut String, number: impl itoa::Integer, width: usize) {
    let mut buffer = itoa::Buffer::new();
    let digits = buffer.format(number);
    text.push_str(digits);
    pad(text, digits.len(), width);
}

/// `10.0.0.1`
pub fn ipv4(text: &mut String, address: Ipv4Addr) {
    let mut buffer = itoa::Buffer::new();
    let [a, b, c, d] = address.octets();
    for (dot, octet) in [("", a), (".", b), (".", c), (".", d)] {
        text.push_str(dot);
        text.push_str(buffer.format(octet));
    }
}

/// `10.0.0.1:80`, `[2001:db8::1]:80`
pub fn place(text: &mut String, address: IpAddr, port: u16) {
    use std::fmt::Write;
    match address {
        IpAddr::V4(address) => ipv4(text, address),
        // Writing to a string cannot fail.
        IpAddr::V6(address) => drop(write!(text, "[{address}]")),
    }
    text.push(':');
    text.push_str(itoa::Buffer::new().format(port));
}

/// Spaces between what takes `taken` columns and the width.
pub fn pad(text: &mut String, taken: usize, width: usize) {
    text.extend(std::iter::repeat_n(' ', width.saturating_sub(taken)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::SocketAddr;

    fn written(write: impl FnOnce(&mut String)) -> String {
        let mut text = String::new();
        write(&mut text);
        text
    }

    proptest! {
        #[test]
        fn as_format_does(word in "\\PC{0,12}", number: i32, address: IpAddr, port: u16) {
            prop_assert_eq!(written(|text| left(text, &word, 8)), format!("{word:<8}"));
            prop_assert_eq!(written(|text| number_left(text, number, 6)), format!("{number:<6}"));
            prop_assert_eq!(written(|text| place(text, address, port)), SocketAddr::new(address, port).to_string());
        }
    }
}
