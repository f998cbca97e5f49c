//! Mail as it is, from a seed: well-formed, odd, and old. Nobody's name or address is in it.

/// A generator of numbers: the same for the same seed.
pub struct Seed(pub u64);

impl Seed {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

const WORDS: [&str; 40] = [
    "the",
    "server",
    "answer",
    "please",
    "find",
    "attached",
    "our",
    "offer",
    "for",
    "and",
    "next",
    "week",
    "meeting",
    "moved",
    "room",
    "thanks",
    "regards",
    "invoice",
    "number",
    "about",
    "disk",
    "backup",
    "failed",
    "again",
    "restart",
    "From",
    "here",
    "on",
    "it",
    "works",
    "Received:",
    "Grüße",
    "für",
    "naïve",
    "日本語",
    "письмо",
    "--",
    "=3D",
    "price",
    "total",
];

pub fn words(seed: &mut Seed, count: u64, ascii: bool) -> String {
    let mut line = String::new();
    for _ in 0..count {
        let word = WORDS[seed.below(40) as usize];
        if ascii && !word.is_ascii() {
            continue;
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
        if seed.below(4) == 0 {
            line.push_str(&seed.below(100_000).to_string());
        }
    }
    line
}

fn text(seed: &mut Seed, lines: u64, ascii: bool) -> String {
    let mut out = String::new();
    for _ in 0..lines {
        if seed.below(9) == 0 {
            out.push_str("> ");
        }
        let count = seed.below(14);
        out.push_str(&words(seed, count, ascii));
        out.push('\n');
    }
    out
}

pub fn base64(bytes: &[u8], width: usize) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut digits = String::new();
    for three in bytes.chunks(3) {
        let mut n = 0u32;
        for at in 0..3 {
            n = n << 8 | u32::from(*three.get(at).unwrap_or(&0));
        }
        for at in 0..4 {
            match at <= three.len() {
                true => digits.push(DIGITS[(n >> (18 - 6 * at)) as usize & 63] as char),
                false => digits.push('='),
            }
        }
    }
    let mut out = String::new();
    for line in digits.as_bytes().chunks(width) {
        out.push_str(std::str::from_utf8(line).unwrap());
        out.push('\n');
    }
    out
}

fn noise(seed: &mut Seed, len: u64) -> Vec<u8> {
    (0..len).map(|_| seed.next() as u8).collect()
}

/// What is attached: often what others get as well.
fn attachment(seed: &mut Seed) -> Vec<u8> {
    match seed.below(5) {
        // One of twenty that go round.
        0 | 1 => {
            let which = seed.below(20);
            noise(&mut Seed(which), 3000 + which * 2711)
        }
        // An image with long runs of one colour.
        2 => {
            let size = 2000 + seed.below(30_000);
            let mut bytes = noise(seed, size);
            let half = bytes.len() / 2;
            bytes[half..].fill(0);
            bytes
        }
        _ => {
            let size = 500 + seed.below(60_000);
            noise(seed, size)
        }
    }
}

fn header(seed: &mut Seed, number: u64, more: &str) -> String {
    let (a, b) = (seed.below(500), seed.below(500));
    let mut out = String::new();
    if seed.below(4) > 0 {
        out.push_str(&format!(
            "Return-Path: <u{a}@example.org>\nDelivered-To: u{b}@example.net\n"
        ));
    }
    for hop in 0..seed.below(5) {
        out.push_str(&format!(
            "Received: from mx{hop}.example.org (mx{hop}.example.org [192.0.2.{hop}])\n\
             \tby mail.example.net (Postfix) with ESMTPS id {:X}\n\tfor <u{b}@example.net>; \
             Thu, 2 Jan 2020 03:04:{hop:02} +0000 (UTC)\n",
            seed.next() >> 20
        ));
    }
    let subject = match seed.below(4) {
        0 => format!(
            "Subject: =?utf-8?B?{}?=\n",
            base64(words(seed, 3, false).as_bytes(), 76).trim()
        ),
        1 => format!("Subject: {}\n", words(seed, 4, false)),
        2 => format!(
            "Subject: {}\n {}\n",
            words(seed, 6, true),
            words(seed, 6, true)
        ),
        _ => String::new(),
    };
    out.push_str(&format!(
        "From: \"User {a}\" <u{a}@example.org>\nTo: u{b}@example.net\n{subject}"
    ));
    if seed.below(10) > 0 {
        out.push_str(&format!(
            "Date: Thu, 2 Jan 2020 03:04:{:02} +0000\n",
            seed.below(60)
        ));
    }
    out.push_str(&format!(
        "Message-ID: <{number}.{:x}@example.org>\n{more}",
        seed.next()
    ));
    out
}

fn multipart(seed: &mut Seed, number: u64) -> String {
    let outer = format!("=_outer-{:016x}", seed.next());
    let inner = format!(
        "----=_Part_{}_{}.{}",
        seed.below(99),
        seed.below(99_999),
        seed.next()
    );
    let mut out = header(
        seed,
        number,
        &format!("MIME-Version: 1.0\nContent-Type: multipart/mixed;\n boundary=\"{outer}\"\n"),
    );
    let lines = seed.below(60);
    let plain = text(seed, lines, false);
    out.push_str(&format!(
        "\nThis is a message with several parts.\n--{outer}\nContent-Type: multipart/alternative; \
         boundary=\"{inner}\"\n\n--{inner}\nContent-Type: text/plain; charset=utf-8\n\
         Content-Transfer-Encoding: 8bit\n\n{plain}\n--{inner}\nContent-Type: text/html\n\
         Content-Transfer-Encoding: quoted-printable\n\n<html><body>=3D{}</body></html>=\n\n--{inner}--\n",
        words(seed, 20, true)
    ));
    for _ in 0..=seed.below(3) {
        let width = if seed.below(5) == 0 { 72 } else { 76 };
        let body = base64(&attachment(seed), width);
        out.push_str(&format!(
            "--{outer}\nContent-Type: application/octet-stream; name=\"a.bin\"\n\
             Content-Transfer-Encoding: base64\nContent-Disposition: attachment\n\n{body}\n"
        ));
    }
    out.push_str(&format!("--{outer}--\n"));
    if seed.below(6) == 0 {
        out.push_str("\nAn epilogue, as some programs write it.\n");
    }
    out
}

fn bounce(seed: &mut Seed, number: u64) -> String {
    let b = format!("{:X}.{}/mx.example.org", seed.next(), seed.below(1 << 30));
    let inner = match seed.below(2) {
        0 => multipart(seed, number + 1),
        _ => header(seed, number + 1, "") + "\n" + &text(seed, 20, true),
    };
    header(
        seed,
        number,
        &format!(
            "MIME-Version: 1.0\nContent-Type: multipart/report; report-type=delivery-status;\n\
         \tboundary=\"{b}\"\n"
        ),
    ) + &format!(
        "\n--{b}\nContent-Description: Notification\n\nNot delivered.\n\n--{b}\n\
             Content-Type: message/delivery-status\n\nReporting-MTA: dns; mx.example.org\n\n\
             Final-Recipient: rfc822; u1@example.net\nAction: failed\n\n--{b}\n\
             Content-Type: message/rfc822\n\n{inner}\n--{b}--\n"
    )
}

/// Message number `number`: bytes as a store keeps them.
pub fn message(seed: &mut Seed, number: u64) -> Vec<u8> {
    let lines = seed.below(120) * seed.below(4);
    let mut out = match seed.below(20) {
        0..=4 => (header(seed, number, "") + "\n" + &text(seed, lines, true)).into_bytes(),
        5 | 6 => (header(
            seed,
            number,
            "MIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\n\
            Content-Transfer-Encoding: 8bit\n",
        ) + "\n"
            + &text(seed, lines, false))
            .into_bytes(),
        7 => {
            let mut out = (header(seed, number, "") + "\n").into_bytes();
            out.extend(
                "Gr\u{fc}\u{df}e, \u{e9}t\u{e9}\n"
                    .repeat(40)
                    .chars()
                    .map(|c| c as u8),
            );
            out
        }
        8 => {
            let body = text(seed, lines + 1, false);
            (header(
                seed,
                number,
                "Content-Type: text/plain\nContent-Transfer-Encoding: base64\n",
            ) + "\n"
                + &base64(body.as_bytes(), 76))
                .into_bytes()
        }
        9..=13 => multipart(seed, number).into_bytes(),
        14 => bounce(seed, number).into_bytes(),
        15 => {
            // One line, as some programs write their HTML.
            let mut out =
                header(seed, number, "Content-Type: text/html; charset=utf-8\n") + "\n<html>";
            (0..200).for_each(|_| out.push_str(&words(seed, 15, false)));
            (out + "</html>").into_bytes()
        }
        16 => {
            // Nothing but a header, with and without the empty line; a body without a last line end.
            let out = header(seed, number, "");
            match seed.below(3) {
                0 => out.into_bytes(),
                1 => (out + "\n").into_bytes(),
                _ => (out + "\nno line end").into_bytes(),
            }
        }
        17 => {
            // BINARYMIME, zeros and all.
            let mut out = header(
                seed,
                number,
                "MIME-Version: 1.0\nContent-Type: application/x-test\n\
                Content-Transfer-Encoding: binary\n\n",
            )
            .into_bytes();
            let size = 1000 + seed.below(20_000);
            let mut body = noise(seed, size);
            body[300..900].fill(0);
            out.extend(body);
            out
        }
        18 => {
            // A list's footer behind base64; and uuencode in a plain body.
            let body = base64(&attachment(seed), 76);
            let footer = "_______________________________________________\nA list at example.org\n";
            (header(seed, number, "Content-Transfer-Encoding: base64\n") + "\n" + &body + footer)
                .into_bytes()
        }
        _ => {
            // Very old.
            format!(
                "From u1 Sat Jan  3 01:05:34 1996\nReceived: by host.example.org (5.65/1.0) id AA{number}; \
                 Sat, 3 Jan 96 01:05:34 +0100\nDate: Sat, 3 Jan 96 01:05:34 MET\nFrom: u1 (User One)\n\
                 To: u2\nStatus: RO\nX-Status: \n\n{}",
                text(seed, lines, true)
            )
            .into_bytes()
        }
    };
    if seed.below(4) == 0 && !out.contains(&0) {
        out = crlf(&out);
    }
    out
}

pub fn crlf(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + bytes.len() / 40);
    for &byte in bytes {
        if byte == b'\n' && out.last() != Some(&b'\r') {
            out.push(b'\r');
        }
        out.push(byte);
    }
    out
}
