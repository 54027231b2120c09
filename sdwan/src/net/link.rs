//! Interfaces, synchronously: for the tunnel backends, which work on a thread of their own.

use std::io;

use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{Socket, SocketAddr};

use super::Error;
use super::netlink::link_of;
use super::snapshot::Link;

/// Every interface of the calling thread's network namespace.
pub fn links() -> Result<Vec<Link>, Error> {
    let action = "list the interfaces";
    let answers = request(action, RouteNetlinkMessage::GetLink(LinkMessage::default()), NLM_F_DUMP)?;
    let links = answers.into_iter().filter_map(|answer| match answer {
        RouteNetlinkMessage::NewLink(message) => Some(link_of(&message)),
        _ => None,
    });
    Ok(links.collect())
}

/// The interface of this name, if there is one.
pub fn find(name: &str) -> Result<Option<Link>, Error> {
    Ok(links()?.into_iter().find(|link| link.name == name))
}

/// Creates a kernel WireGuard interface.
pub fn create_wireguard(name: &str) -> Result<(), Error> {
    let mut message = LinkMessage::default();
    message.attributes =
        vec![LinkAttribute::IfName(name.into()), LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Wireguard)])];
    let action = format!("create the WireGuard interface {name}");
    request(&action, RouteNetlinkMessage::NewLink(message), NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL).map(drop)
}

/// Sets the MTU, bytes, if one is given, and brings the interface up.
pub fn set_up(name: &str, ifindex: u32, mtu: Option<u16>) -> Result<(), Error> {
    let mut message = LinkMessage::default();
    message.header.index = ifindex;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    message.attributes.extend(mtu.map(|mtu| LinkAttribute::Mtu(mtu.into())));
    let action = match mtu {
        Some(mtu) => format!("set the interface {name} up with an MTU of {mtu}"),
        None => format!("set the interface {name} up"),
    };
    request(&action, RouteNetlinkMessage::SetLink(message), NLM_F_ACK).map(drop)
}

/// Removes an interface. One that is gone already is no error.
pub fn delete(name: &str, ifindex: u32) -> Result<(), Error> {
    let mut message = LinkMessage::default();
    message.header.index = ifindex;
    let action = format!("remove the interface {name}");
    match request(&action, RouteNetlinkMessage::DelLink(message), NLM_F_ACK) {
        Err(error) if error.os_error() == Some(libc::ENODEV) => Ok(()),
        other => other.map(drop),
    }
}

/// Sends a request on a socket of its own and reads the answers to the end.
fn request(action: &str, message: RouteNetlinkMessage, flags: u16) -> Result<Vec<RouteNetlinkMessage>, Error> {
    let io_error = |source| Error::Socket { action: action.into(), source };
    let invalid =
        |error: &dyn std::fmt::Display| io_error(io::Error::new(io::ErrorKind::InvalidData, error.to_string()));
    let mut request = NetlinkMessage::from(message);
    request.header.flags = NLM_F_REQUEST | flags;
    request.header.sequence_number = 1;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);

    let mut socket = Socket::new(NETLINK_ROUTE).map_err(io_error)?;
    socket.bind_auto().map_err(io_error)?;
    socket.connect(&SocketAddr::new(0, 0)).map_err(io_error)?;
    socket.send(&bytes, 0).map_err(io_error)?;

    let mut answers = Vec::new();
    let mut buffer = Vec::with_capacity(1 << 16);
    loop {
        buffer.clear();
        socket.recv(&mut buffer, 0).map_err(io_error)?;
        let mut rest = &buffer[..];
        while !rest.is_empty() {
            let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).map_err(|error| invalid(&error))?;
            let length = (answer.header.length as usize).next_multiple_of(4).clamp(16, rest.len().max(16));
            rest = rest.get(length..).unwrap_or_default();
            match answer.payload {
                NetlinkPayload::InnerMessage(message) => answers.push(message),
                NetlinkPayload::Error(error) if error.code.is_some() => {
                    return Err(Error::refused(action, error.to_io()));
                }
                NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => return Ok(answers),
                _ => {}
            }
        }
    }
}
