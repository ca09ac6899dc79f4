//! Redis' protocol, as far as a test asks a server or a sentinel about itself.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// How long one question may take.
const ASK_DEADLINE: Duration = Duration::from_millis(500);

/// Sends commands on a connection of their own and returns the first line of the last answer.
pub(crate) fn ask(port: u16, commands: &[Vec<&str>]) -> io::Result<String> {
    let mut stream = connect(port)?;
    let mut line = String::new();
    for words in commands {
        send(&mut stream, words)?;
        line = read_line(&mut stream)?;
    }
    Ok(line)
}

/// Sends commands on a connection of their own and returns every text of the last answer, however deep.
pub(crate) fn texts(port: u16, commands: &[Vec<&str>]) -> io::Result<Vec<String>> {
    let mut stream = connect(port)?;
    let mut texts = Vec::new();
    for words in commands {
        texts.clear();
        send(&mut stream, words)?;
        read_texts(&mut stream, &mut texts)?;
    }
    Ok(texts)
}

fn connect(port: u16) -> io::Result<TcpStream> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let stream = TcpStream::connect_timeout(&address, ASK_DEADLINE)?;
    stream.set_read_timeout(Some(ASK_DEADLINE))?;
    Ok(stream)
}

fn send(stream: &mut TcpStream, words: &[&str]) -> io::Result<()> {
    let mut request = format!("*{}\r\n", words.len());
    for word in words {
        request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
    }
    stream.write_all(request.as_bytes())
}

fn read_texts(stream: &mut TcpStream, texts: &mut Vec<String>) -> io::Result<()> {
    let mut awaited = 1;
    while awaited > 0 {
        awaited -= 1;
        let line = read_line(stream)?;
        let count = || line[1..].parse::<usize>().unwrap_or_default();
        match line.as_bytes()[0] {
            b'*' => awaited += count(),
            b'$' => {
                // Two more for the end of the line.
                let mut bytes = vec![0; count() + 2];
                stream.read_exact(&mut bytes)?;
                texts.push(String::from_utf8_lossy(&bytes[..bytes.len() - 2]).into_owned());
            }
            _ => texts.push(line),
        }
    }
    Ok(())
}

fn read_line(stream: &mut TcpStream) -> io::Result<String> {
    let (mut line, mut byte) = (Vec::new(), [0]);
    while !line.ends_with(b"\r\n") {
        stream.read_exact(&mut byte)?;
        line.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
}
