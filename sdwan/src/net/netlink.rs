//! The requests of this module over one netlink connection.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use futures::{Stream, TryStreamExt};
use ipnet::IpNet;
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteType};
use rtnetlink::packet_route::rule::RuleMessage;
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{Handle, IpVersion};
use tokio::task::AbortHandle;

use super::snapshot::{DefaultRoute, InterfaceAddress, Link};
use super::{Error, NetSnapshot, marks};

/// A netlink connection to the network namespace it was made in. Clones share it.
#[derive(Clone)]
pub struct Network {
    handle: Handle,
    _connection: Arc<Connection>,
}

/// Ends the connection's task with the last [`Network`].
struct Connection(AbortHandle);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Network {
    /// Connects; must be called within a tokio runtime.
    pub fn connect() -> Result<Self, Error> {
        let opened = rtnetlink::new_connection();
        let (connection, handle, _) =
            opened.map_err(|source| Error::Socket { action: "open a socket".into(), source })?;
        let task = tokio::spawn(connection);
        Ok(Self { handle, _connection: Arc::new(Connection(task.abort_handle())) })
    }

    /// The network as it is now.
    pub async fn snapshot(&self) -> Result<NetSnapshot, Error> {
        let links = collect("list the interfaces", self.handle.link().get().execute()).await?;
        let addresses = collect("list the addresses", self.handle.address().get().execute()).await?;
        let mut default_routes = Vec::new();
        for route in self.routes().await? {
            default_routes.extend(default_routes_of(&route));
        }
        let links = links.iter().map(link_of).map(|link| (link.ifindex, link)).collect();
        let addresses = addresses.iter().filter_map(interface_address_of).collect();
        Ok(NetSnapshot { links, addresses, default_routes })
    }

    /// Every unicast and unreachable route of both families and all tables.
    pub(super) async fn routes(&self) -> Result<Vec<RouteMessage>, Error> {
        let mut all = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            let dump = collect("list the routes", self.handle.route().get(message).execute()).await;
            all.extend(without_missing_family(dump)?);
        }
        all.retain(|route: &RouteMessage| !route.header.flags.contains(RouteFlags::Cloned));
        Ok(all)
    }

    /// Every rule of both families.
    pub(super) async fn rules(&self) -> Result<Vec<RuleMessage>, Error> {
        let mut all = Vec::new();
        for family in [IpVersion::V4, IpVersion::V6] {
            let dump = collect("list the rules", self.handle.rule().get(family).execute()).await;
            all.extend(without_missing_family(dump)?);
        }
        Ok(all)
    }

    /// Every address as the kernel describes it.
    pub(super) async fn addresses(&self) -> Result<Vec<AddressMessage>, Error> {
        collect("list the addresses", self.handle.address().get().execute()).await
    }

    /// Sends one request and waits for its acknowledgement. `action` names it in the error.
    pub(super) async fn change(
        &self,
        action: impl Into<String>,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<(), Error> {
        let action = action.into();
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        let mut handle = self.handle.clone();
        let mut answers =
            handle.request(request).map_err(|error| Error::refused(action.clone(), io::Error::other(error)))?;
        while let Some(answer) = futures::StreamExt::next(&mut answers).await {
            if let NetlinkPayload::Error(error) = answer.payload
                && error.code.is_some()
            {
                return Err(Error::refused(action, error.to_io()));
            }
        }
        Ok(())
    }
}

/// Gathers a dump.
async fn collect<T>(
    action: &'static str,
    stream: impl Stream<Item = Result<T, rtnetlink::Error>>,
) -> Result<Vec<T>, Error> {
    stream.try_collect().await.map_err(|error| match error {
        rtnetlink::Error::NetlinkError(error) => Error::refused(action, error.to_io()),
        other => Error::Socket { action: action.into(), source: io::Error::other(other) },
    })
}

/// A kernel without IPv6 has no IPv6 routes and rules: that is an answer, not a failure.
fn without_missing_family<T>(dump: Result<Vec<T>, Error>) -> Result<Vec<T>, Error> {
    match dump {
        Err(error) if matches!(error.os_error(), Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP)) => Ok(Vec::new()),
        other => other,
    }
}

/// What this project reads of a link message.
pub(super) fn link_of(message: &LinkMessage) -> Link {
    let flags = message.header.flags;
    let mut link = Link {
        ifindex: message.header.index,
        up: flags.contains(LinkFlags::Up),
        carrier: flags.contains(LinkFlags::LowerUp),
        loopback: flags.contains(LinkFlags::Loopback),
        point_to_point: flags.contains(LinkFlags::Pointopoint),
        ..Link::default()
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::LinkInfo(infos) => {
                link.kind = infos.iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind.to_string()),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    link
}

fn interface_address_of(message: &AddressMessage) -> Option<InterfaceAddress> {
    let mut flags = AddressFlags::from_bits_retain(message.header.flags.bits().into());
    let (mut local, mut address) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => address = Some(*ip),
            AddressAttribute::Flags(all) => flags = *all,
            _ => {}
        }
    }
    let ip = local.or(address)?;
    let unusable = AddressFlags::Tentative | AddressFlags::Dadfailed | AddressFlags::Deprecated;
    Some(InterfaceAddress {
        ifindex: message.header.index,
        address: IpNet::new(ip, message.header.prefix_len).ok()?,
        usable: message.header.scope == AddressScope::Universe && !flags.intersects(unusable),
        // In IPv4 the same bit says "secondary address of its subnet", which is as good as the primary one.
        temporary: ip.is_ipv6() && flags.contains(AddressFlags::Secondary),
    })
}

/// Is this a default route of the main table that somebody else made?
pub(super) fn is_default_route(message: &RouteMessage) -> bool {
    message.header.destination_prefix_length == 0
        && u32::from(message.header.table) == marks::MAIN_TABLE
        && message.header.kind == RouteType::Unicast
        && u8::from(message.header.protocol) != marks::PROTOCOL
}

/// The default routes in a route message, one per next hop.
fn default_routes_of(message: &RouteMessage) -> Vec<DefaultRoute> {
    if !is_default_route(message) {
        return Vec::new();
    }
    let ipv6 = message.header.address_family == AddressFamily::Inet6;
    let mut metric = 0;
    let mut hops = Vec::new();
    let mut single = (None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::Oif(ifindex) => single.0 = Some(*ifindex),
            RouteAttribute::Gateway(gateway) => single.1 = ip_of(gateway),
            RouteAttribute::MultiPath(next_hops) => {
                for hop in next_hops {
                    let gateway = hop.attributes.iter().find_map(|attribute| match attribute {
                        RouteAttribute::Gateway(gateway) => ip_of(gateway),
                        _ => None,
                    });
                    hops.push((hop.interface_index, gateway));
                }
            }
            _ => {}
        }
    }
    if let (Some(ifindex), gateway) = single
        && hops.is_empty()
    {
        hops.push((ifindex, gateway));
    }
    hops.into_iter().map(|(ifindex, gateway)| DefaultRoute { ifindex, gateway, ipv6, metric }).collect()
}

/// The IP address in a route attribute.
pub(super) fn ip_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some((*ip).into()),
        RouteAddress::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}
