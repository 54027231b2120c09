//! Plain requests, with the headers that a browser would not let a script write.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use sdwan_tests::mesh::Gateway;

use crate::ADDRESS;

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its headers, in small letters.
    pub head: String,
    /// Its content.
    pub body: String,
}

impl Answer {
    /// `name=value` of the cookie that it sets.
    pub fn cookie(&self) -> String {
        let line = self.head.lines().find_map(|line| line.strip_prefix("set-cookie: ")).expect("a cookie");
        line.split(';').next().expect("a pair").to_owned()
    }
}

/// Asks a gateway's dashboard, from its own namespace.
pub fn ask(gateway: &Gateway, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let host = headers.iter().any(|(name, _)| *name == "host");
    let mut text = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\ncontent-length: {}\r\n", body.len());
    if !host {
        text.push_str(&format!("host: {ADDRESS}\r\n"));
    }
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str(&format!("\r\n{body}"));
    let exchange = || -> std::io::Result<String> {
        let address: SocketAddr = ADDRESS.parse().expect("an address");
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        stream.write_all(text.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = gateway.namespace().run(exchange).expect("the namespace is there").expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("headers end");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    let head = head.replace("\r\n", "\n");
    Answer { status, head, body: body.to_owned() }
}
