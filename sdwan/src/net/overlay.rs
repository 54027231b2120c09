//! This site's overlay address, on the loopback interface and on the tunnels.
//!
//! On `lo` because there it outlives every tunnel, and a stock kernel may lack the `dummy` module. On each tunnel an
//! IPv4 address too, because of the reverse path filter: on an interface without any, even the loose one drops what
//! it would not send back by the same interface. Ours carries [`marks::PROTOCOL`] as its address protocol (Linux 5.18) and, in IPv4, a
//! label, which older kernels keep too.

use std::net::{IpAddr, Ipv4Addr};

use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressHeaderFlags, AddressMessage, AddressProtocol, AddressScope,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Error, Network, marks};

/// Label of the IPv4 address, as `ip address show lo` prints it.
const LABEL: &str = "lo:sdwan";
/// Interface index of the loopback interface in every network namespace.
const LOOPBACK: u32 = 1;
/// The IPv4 address of a tunnel where the overlay has none: the dummy address of RFC 7600, which nobody routes.
const DUMMY: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 8);

impl Network {
    /// Makes `overlay` the one overlay address on the loopback interface; with `None`, removes ours.
    ///
    /// `former` are addresses known to have been ours: on kernels before 5.18 an IPv6 address can't be recognised
    /// otherwise. Returns whether anything changed.
    pub async fn set_overlay_address(&self, overlay: Option<IpAddr>, former: &[IpAddr]) -> Result<bool, Error> {
        let addresses = self.addresses().await?;
        self.set_address(&addresses, LOOPBACK, overlay, former).await
    }

    /// Gives each of these interfaces the IPv4 address that a tunnel needs: the overlay address if it is IPv4.
    /// They go with the tunnels. Returns whether anything changed.
    pub async fn set_tunnel_addresses(
        &self,
        tunnels: impl IntoIterator<Item = u32>,
        overlay: Option<IpAddr>,
    ) -> Result<bool, Error> {
        let address = overlay.filter(IpAddr::is_ipv4).unwrap_or(IpAddr::V4(DUMMY));
        let addresses = self.addresses().await?;
        let mut changed = false;
        for tunnel in tunnels {
            match self.set_address(&addresses, tunnel, Some(address), &[]).await {
                // The tunnel went meanwhile.
                Err(error) if error.os_error() == Some(libc::ENODEV) => {}
                outcome => changed |= outcome?,
            }
        }
        Ok(changed)
    }

    /// Makes one host address the only one of ours on an interface, which has `addresses` among others.
    async fn set_address(
        &self,
        addresses: &[AddressMessage],
        ifindex: u32,
        wanted: Option<IpAddr>,
        former: &[IpAddr],
    ) -> Result<bool, Error> {
        let place = if ifindex == LOOPBACK { "lo".into() } else { format!("interface {ifindex}") };
        let mut present = false;
        let mut changed = false;
        for message in addresses.iter().filter(|message| message.header.index == ifindex) {
            let Some(address) = host_address_of(message) else { continue };
            if Some(address) == wanted {
                present = true;
            } else if is_ours(message) || (address.is_ipv6() && former.contains(&address)) {
                let action = format!("remove the overlay address {address} from {place}");
                let removal = RouteNetlinkMessage::DelAddress(message_for(ifindex, address));
                match self.change(action, removal, 0).await {
                    Err(error) if error.os_error() == Some(libc::EADDRNOTAVAIL) => {}
                    other => other?,
                }
                changed = true;
            }
        }
        if let Some(address) = wanted
            && !present
        {
            let action = format!("add the overlay address {address} to {place}");
            let addition = RouteNetlinkMessage::NewAddress(message_for(ifindex, address));
            self.change(action, addition, NLM_F_CREATE | NLM_F_EXCL).await?;
            changed = true;
        }
        Ok(changed)
    }

    /// Removes our rules, routes and overlay address: for `sdwan down`. `overlay` is the address if it is known.
    pub async fn remove_all(&self, overlay: Option<IpAddr>) -> Result<super::routing::RoutingReport, Error> {
        let mut report = super::routing::RoutingReconciler::new(self.clone()).remove_all().await?;
        let former: Vec<_> = overlay.into_iter().collect();
        report.changes += usize::from(self.set_overlay_address(None, &former).await?);
        Ok(report)
    }
}

/// The address of a message about a host address.
fn host_address_of(message: &AddressMessage) -> Option<IpAddr> {
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(address) => Some(*address),
        _ => None,
    })?;
    let bits = if address.is_ipv4() { 32 } else { 128 };
    (message.header.prefix_len == bits && !address.is_loopback()).then_some(address)
}

fn is_ours(message: &AddressMessage) -> bool {
    message.attributes.iter().any(|attribute| match attribute {
        AddressAttribute::Protocol(protocol) => u8::from(*protocol) == marks::PROTOCOL,
        AddressAttribute::Label(label) => label == LABEL,
        _ => false,
    })
}

fn message_for(ifindex: u32, address: IpAddr) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = ifindex;
    message.header.scope = AddressScope::Universe;
    message.attributes = vec![AddressAttribute::Address(address), AddressAttribute::Local(address)];
    message.attributes.push(AddressAttribute::Protocol(AddressProtocol::from(marks::PROTOCOL)));
    match address {
        IpAddr::V4(_) => {
            message.header.family = AddressFamily::Inet;
            message.header.prefix_len = 32;
            // A label starts with the interface's name; the tunnels need none, their names say it.
            if ifindex == LOOPBACK {
                message.attributes.push(AddressAttribute::Label(LABEL.into()));
            }
        }
        IpAddr::V6(_) => {
            message.header.family = AddressFamily::Inet6;
            message.header.prefix_len = 128;
            message.header.flags = AddressHeaderFlags::Nodad;
        }
    }
    message
}
