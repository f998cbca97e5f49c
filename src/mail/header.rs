//! Lines of a header (RFC 5322, section 2.2), taken strictly: parsers that make something of
//! everything find nothing wrong with a blank message.

/// The longest value that is kept; `Content-Type` must fit with its boundary.
pub const MAX_VALUE_BYTES: usize = 4096;

/// Splits `Name: value`. `None` where a line is no field: the name must be printable ASCII
/// without a space. (A space before the colon is obsolete, and allowed by section 4.)
pub fn field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    const MAX_NAME_BYTES: usize = 128;
    let colon = memchr::memchr(b':', line.get(..MAX_NAME_BYTES.min(line.len()))?)?;
    let (name, value) = line.split_at(colon);
    let name = name.trim_ascii_end();
    let printable = !name.is_empty() && name.iter().all(|b| (33..=126).contains(b));
    printable.then(|| (name, value.get(1..).unwrap_or_default()))
}

/// Fields that make a text a message.
pub fn is_well_known(name: &[u8]) -> bool {
    const NAMES: [&str; 22] = [
        "received",
        "return-path",
        "delivered-to",
        "from",
        "to",
        "cc",
        "subject",
        "date",
        "sender",
        "message-id",
        "mime-version",
        "content-type",
        "reply-to",
        "in-reply-to",
        "references",
        "content-transfer-encoding",
        "x-mailer",
        "user-agent",
        "dkim-signature",
        "x-original-to",
        "envelope-to",
        "list-id",
    ];
    NAMES
        .iter()
        .any(|known| name.eq_ignore_ascii_case(known.as_bytes()))
}

/// The value of a parameter such as `boundary`, unquoted. RFC 2231 continuations
/// (`boundary*0=`) are joined.
pub fn parameter(value: &[u8], wanted: &str) -> Option<Vec<u8>> {
    let mut joined: Option<Vec<u8>> = None;
    for (name, text) in parameters(value) {
        if name.eq_ignore_ascii_case(wanted.as_bytes()) {
            return Some(text);
        }
        let part = name.get(..wanted.len()).zip(name.get(wanted.len()..));
        if part.is_some_and(|(n, rest)| {
            n.eq_ignore_ascii_case(wanted.as_bytes()) && rest.first() == Some(&b'*')
        }) {
            joined.get_or_insert_default().extend(text);
        }
    }
    joined
}

/// `; name=value` after the first word of a structured field.
fn parameters(value: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    const MAX_PARAMETERS: usize = 64;
    let mut found = Vec::new();
    let mut rest = after_semicolon(value);
    while let Some(text) = rest.filter(|_| found.len() < MAX_PARAMETERS) {
        let Some(equals) = memchr::memchr(b'=', text) else {
            break;
        };
        let (name, value) = text.split_at(equals);
        let name = match memchr::memrchr(b';', name) {
            Some(at) => name.get(at + 1..).unwrap_or_default(),
            None => name,
        };
        let value = value.get(1..).unwrap_or_default().trim_ascii_start();
        let (parsed, after) = match value.strip_prefix(b"\"") {
            Some(quoted) => unquote(quoted),
            None => {
                let end = value
                    .iter()
                    .position(|b| matches!(b, b';' | b' ' | b'\t' | b'(' | b'\r' | b'\n'))
                    .unwrap_or(value.len());
                let (token, after) = value.split_at(end);
                (token.to_vec(), after)
            }
        };
        found.push((name.trim_ascii().to_vec(), parsed));
        rest = after_semicolon(after);
    }
    found
}

fn after_semicolon(text: &[u8]) -> Option<&[u8]> {
    text.get(memchr::memchr(b';', text)? + 1..)
}

fn unquote(text: &[u8]) -> (Vec<u8>, &[u8]) {
    let mut out = Vec::new();
    let mut bytes = text.iter().enumerate();
    while let Some((at, &byte)) = bytes.next() {
        match byte {
            b'"' => return (out, text.get(at + 1..).unwrap_or_default()),
            b'\\' => out.extend(bytes.next().map(|(_, &b)| b)),
            _ => out.push(byte),
        }
    }
    (out, &[])
}

/// The first word of a field's value, in lower case: `multipart/mixed`, `base64`.
pub fn word(value: &[u8]) -> Vec<u8> {
    let end = value
        .trim_ascii_start()
        .iter()
        .position(|b| matches!(b, b';' | b' ' | b'\t' | b'(' | b'\r' | b'\n'));
    let value = value.trim_ascii_start();
    value
        .get(..end.unwrap_or(value.len()))
        .unwrap_or(value)
        .to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_a_name_a_colon_and_a_value() {
        assert_eq!(
            field(b"From: a"),
            Some((b"From".as_slice(), b" a".as_slice()))
        );
        assert_eq!(
            field(b"X-Empty:"),
            Some((b"X-Empty".as_slice(), b"".as_slice()))
        );
        for none in [
            &b"no colon"[..],
            b": x",
            b"two words: x",
            b"caf\xc3\xa9: x",
            b"\0: x",
            b"",
        ] {
            assert_eq!(field(none), None, "{none:?}");
        }
    }

    #[test]
    fn boundaries_are_read_as_they_are_written() {
        let of = |text: &str| parameter(text.as_bytes(), "boundary").map(String::from_utf8);
        let ok = |text: &str| Some(Ok(text.to_string()));
        assert_eq!(of("multipart/mixed; boundary=abc"), ok("abc"));
        assert_eq!(
            of("multipart/mixed;\r\n\tBoundary=\"a b; \\\"c\""),
            ok("a b; \"c")
        );
        assert_eq!(
            of("multipart/mixed; charset=x; boundary=abc (comment)"),
            ok("abc")
        );
        assert_eq!(
            of("multipart/mixed; boundary*0=\"ab\"; boundary*1=cd"),
            ok("abcd")
        );
        assert_eq!(of("text/plain; name=\"boundary=x\""), None);
        assert_eq!(of("multipart/mixed"), None);
        assert_eq!(word(b" Multipart/Mixed; x"), b"multipart/mixed");
    }
}
