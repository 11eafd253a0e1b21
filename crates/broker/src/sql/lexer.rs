//! Tokens of SQL92 filter expressions, as RocketMQ's `SelectorParser` cuts them: the longest token wins, keywords are found in
//! any case, blanks and comments are passed over. Text is cut only as far as the parser asks.

use super::CompileError;

/// One token.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    End,
    Not,
    And,
    Or,
    Between,
    In,
    True,
    False,
    Null,
    Is,
    Contains,
    StartsWith,
    EndsWith,
    /// Digits, without the `L` that may follow.
    Decimal(Box<str>),
    Float(Box<str>),
    /// The text between the quotes, doubled ones made single.
    Text(Box<str>),
    Name(Box<str>),
    Equal,
    NotEqual,
    Greater,
    GreaterEqual,
    Less,
    LessEqual,
    Open,
    Comma,
    Close,
    Plus,
    Minus,
}

const KEYWORDS: [(&str, Token); 12] = [
    ("NOT", Token::Not),
    ("AND", Token::And),
    ("OR", Token::Or),
    ("BETWEEN", Token::Between),
    ("IN", Token::In),
    ("TRUE", Token::True),
    ("FALSE", Token::False),
    ("NULL", Token::Null),
    ("IS", Token::Is),
    ("CONTAINS", Token::Contains),
    ("STARTSWITH", Token::StartsWith),
    ("ENDSWITH", Token::EndsWith),
];

/// Cuts a text.
pub(super) struct Lexer<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Lexer<'a> {
    pub fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// The next token.
    pub fn next(&mut self) -> Result<Token, CompileError> {
        self.skip();
        let rest = &self.text.as_bytes()[self.at..];
        let Some(first) = rest.first().copied() else { return Ok(Token::End) };
        let (token, len) = match first {
            b'0'..=b'9' | b'.' => self.number(rest)?,
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | b'$' => self.word(rest),
            b'\'' => self.quoted(rest)?,
            b'=' => (Token::Equal, 1),
            b'<' if rest.get(1) == Some(&b'>') => (Token::NotEqual, 2),
            b'<' if rest.get(1) == Some(&b'=') => (Token::LessEqual, 2),
            b'<' => (Token::Less, 1),
            b'>' if rest.get(1) == Some(&b'=') => (Token::GreaterEqual, 2),
            b'>' => (Token::Greater, 1),
            b'(' => (Token::Open, 1),
            b',' => (Token::Comma, 1),
            b')' => (Token::Close, 1),
            b'+' => (Token::Plus, 1),
            b'-' => (Token::Minus, 1),
            _ => return Err(CompileError::Character { at: self.at }),
        };
        self.at += len;
        Ok(token)
    }

    /// Passes over blanks and whole comments; what looks like the start of one but has no end is no comment.
    fn skip(&mut self) {
        loop {
            let rest = &self.text.as_bytes()[self.at..];
            let len = match rest {
                [b' ' | b'\t' | b'\n' | b'\r' | 12, ..] => Some(1),
                [b'-', b'-', line @ ..] => {
                    line.iter().position(|byte| matches!(byte, b'\n' | b'\r')).map(|end| end + 3)
                }
                [b'/', b'*', block @ ..] => block.windows(2).position(|two| two == b"*/").map(|end| end + 4),
                _ => None,
            };
            match len {
                Some(len) => self.at += len,
                None => return,
            }
        }
    }

    fn number(&self, rest: &[u8]) -> Result<(Token, usize), CompileError> {
        let digits = |from: usize| rest[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let exponent = |from: usize| match rest.get(from) {
            Some(b'e' | b'E') => {
                let sign = usize::from(matches!(rest.get(from + 1), Some(b'+' | b'-')));
                match digits((from + 1 + sign).min(rest.len())) {
                    0 => 0,
                    n => 1 + sign + n,
                }
            }
            _ => 0,
        };
        let whole = digits(0);
        let text = |len: usize| -> Box<str> { self.text[self.at..self.at + len].into() };
        let end = match rest.get(whole) {
            Some(b'.') => {
                let fraction = digits(whole + 1);
                if whole + fraction == 0 {
                    return Err(CompileError::Character { at: self.at });
                }
                let end = whole + 1 + fraction;
                end + exponent(end)
            }
            _ => whole + exponent(whole),
        };
        if end > whole {
            return Ok((Token::Float(text(end)), end));
        }
        // A leading zero is a number of its own.
        if rest[0] == b'0' {
            return Ok((Token::Decimal(text(1)), 1));
        }
        let long = usize::from(matches!(rest.get(whole), Some(b'l' | b'L')));
        Ok((Token::Decimal(text(whole)), whole + long))
    }

    fn word(&self, rest: &[u8]) -> (Token, usize) {
        let is_part = |byte: &&u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$');
        let len = rest.iter().take_while(is_part).count();
        let word = &self.text[self.at..self.at + len];
        let keyword = KEYWORDS.iter().find(|(text, _)| text.eq_ignore_ascii_case(word));
        (keyword.map_or_else(|| Token::Name(word.into()), |(_, token)| token.clone()), len)
    }

    fn quoted(&self, rest: &[u8]) -> Result<(Token, usize), CompileError> {
        let mut end = 1;
        loop {
            match memchr::memchr(b'\'', &rest[end..]) {
                None => return Err(CompileError::Quote { at: self.at }),
                Some(n) if rest.get(end + n + 1) == Some(&b'\'') => end += n + 2,
                Some(n) => {
                    let inner = &self.text[self.at + 1..self.at + end + n];
                    return Ok((Token::Text(inner.replace("''", "'").into()), end + n + 1));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(text: &str) -> Vec<Token> {
        let mut lexer = Lexer::new(text);
        let mut all = Vec::new();
        loop {
            match lexer.next().unwrap() {
                Token::End => return all,
                token => all.push(token),
            }
        }
    }

    #[test]
    fn the_longest_token_wins() {
        let name = |text: &str| Token::Name(text.into());
        assert_eq!(tokens("a<=b<>c"), [name("a"), Token::LessEqual, name("b"), Token::NotEqual, name("c")]);
        assert_eq!(tokens("nOt notes"), [Token::Not, name("notes")]);
        assert_eq!(tokens("$a_1 'it''s' ''"), [name("$a_1"), Token::Text("it's".into()), Token::Text("".into())]);
    }

    #[test]
    fn numbers_are_cut_as_in_rocketmq() {
        let (int, float) = (|t: &str| Token::Decimal(t.into()), |t: &str| Token::Float(t.into()));
        assert_eq!(tokens("0 12L 007"), [int("0"), int("12"), int("0"), int("0"), int("7")]);
        assert_eq!(tokens("1. .5 1.5E-3 2e3 00.5"), ["1.", ".5", "1.5E-3", "2e3", "00.5"].map(float));
        assert_eq!(tokens("1e"), [int("1"), Token::Name("e".into())]);
        assert!(Lexer::new(" .").next().is_err());
    }

    #[test]
    fn comments_need_their_end() {
        assert_eq!(tokens("/* x **/ 1 -- y\n2"), [Token::Decimal("1".into()), Token::Decimal("2".into())]);
        assert_eq!(tokens("--y").len(), 3);
        assert!(Lexer::new("/* x").next().is_err());
        assert!(Lexer::new("'x").next().is_err() && Lexer::new("#").next().is_err() && Lexer::new("ü").next().is_err());
    }
}
