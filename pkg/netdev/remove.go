// SPDX-License-Identifier: Apache-2.0

package netdev

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// removalGroup is the group that links are put into to be removed together.
const removalGroup = 0x70626465

// RemovePodLinks removes host ends by index, each only while it still has the
// name given. One removal waits some 30 ms for all processors; together they
// wait once.
func RemovePodLinks(links map[int]string) error {
	var errs []error
	found := 0
	for index, name := range links {
		link, err := netlink.LinkByIndex(index)
		if _, gone := errors.AsType[netlink.LinkNotFoundError](err); gone || err == nil && link.Attrs().Name != name {
			continue
		}
		if err == nil {
			err = netlink.LinkSetGroup(link, removalGroup)
		}
		switch {
		case errors.Is(err, unix.ENODEV):
		case err != nil:
			errs = append(errs, fmt.Errorf("remove link %s: %w", name, err))
		default:
			found++
		}
	}
	if found > 0 {
		errs = append(errs, removeGroup(removalGroup))
	}
	return errors.Join(errs...)
}

// removeGroup removes all links of a group in one step.
func removeGroup(group uint32) error {
	req := nl.NewNetlinkRequest(unix.RTM_DELLINK, unix.NLM_F_ACK)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(group)))
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove links of group %#x: %w", group, err)
	}
	return nil
}
