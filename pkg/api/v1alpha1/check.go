// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"unicode/utf8"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// checks collects what is wrong with one object.
type checks struct {
	object string
	errs   []error
}

func newChecks(kind string, obj metav1.Object) *checks {
	return &checks{object: kind + " " + obj.GetName()}
}

func (c *checks) add(field, format string, args ...any) {
	c.errs = append(c.errs, fmt.Errorf("%s: %s: %s", c.object, field, fmt.Sprintf(format, args...)))
}

func (c *checks) err() error { return errors.Join(c.errs...) }

func index(field string, i int) string { return fmt.Sprintf("%s[%d]", field, i) }

// oneOf requires an enumeration's value.
func (c *checks) oneOf(field string, got any, want ...any) {
	if !slices.Contains(want, got) {
		c.add(field, "%q must be one of %v", got, want)
	}
}

func (c *checks) between(field string, got, low, high int64) {
	if got < low || got > high {
		c.add(field, "%d must be from %d to %d", got, low, high)
	}
}

func (c *checks) count(field string, got, most int) {
	if got > most {
		c.add(field, "%d entries are more than %d", got, most)
	}
}

// distinct requires a list in which nothing stands twice.
func (c *checks) distinct(field string, list []string) {
	for i, item := range list {
		if slices.Contains(list[:i], item) {
			c.add(index(field, i), "%q stands twice", item)
		}
	}
}

// text requires a value, of at most so many characters.
func (c *checks) text(field, got string, most int) {
	if got == "" {
		c.add(field, "must be given")
	}
	if n := utf8.RuneCountInString(got); n > most {
		c.add(field, "%d characters are more than %d", n, most)
	}
}

// addr requires an address as the API server's own library takes it: no zone,
// not IPv4 mapped into IPv6.
func (c *checks) addr(field, text string) (netip.Addr, bool) {
	addr, err := netip.ParseAddr(text)
	if err != nil || addr.Zone() != "" || addr.Is4In6() {
		c.add(field, "%q must be an address", text)
		return netip.Addr{}, false
	}
	return addr, true
}

// mac requires a MAC address with colons.
func (c *checks) mac(field, text string) {
	if !regexp.MustCompile(`^([0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}$`).MatchString(text) {
		c.add(field, "%q must be a MAC address", text)
	}
}

// unicast requires an address that a machine can have on any network.
func (c *checks) unicast(field, text string) (netip.Addr, bool) {
	addr, ok := c.addr(field, text)
	if ok && !addr.IsGlobalUnicast() {
		c.add(field, "%s must be a unicast address that isn't link-local or loopback", addr)
		return netip.Addr{}, false
	}
	return addr, ok
}

// prefix requires a prefix without host bits.
func (c *checks) prefix(field, text string) (netip.Prefix, bool) {
	prefix, err := netip.ParsePrefix(text)
	if err != nil || prefix.Addr().Is4In6() {
		c.add(field, "%q must be a prefix such as 10.0.0.0/24 or fd00::/64", text)
		return netip.Prefix{}, false
	}
	if prefix != prefix.Masked() {
		c.add(field, "%s has host bits: write %s", prefix, prefix.Masked())
		return netip.Prefix{}, false
	}
	return prefix, true
}

// unicastPrefix requires a prefix of addresses that machines can have.
func (c *checks) unicastPrefix(field, text string) (netip.Prefix, bool) {
	prefix, ok := c.prefix(field, text)
	if ok && !prefix.Addr().IsGlobalUnicast() {
		c.add(field, "%s must be of unicast addresses that aren't link-local or loopback", prefix)
		return netip.Prefix{}, false
	}
	return prefix, ok
}

// addrOrPrefix requires an address, or a prefix without host bits; an address
// is returned as its full-length prefix.
func (c *checks) addrOrPrefix(field, text string) (netip.Prefix, bool) {
	if addr, err := netip.ParseAddr(text); err == nil && addr.Zone() == "" && !addr.Is4In6() {
		return netip.PrefixFrom(addr, addr.BitLen()), true
	}
	prefix, err := netip.ParsePrefix(text)
	if err != nil || prefix.Addr().Is4In6() {
		c.add(field, "%q must be an address or a prefix", text)
		return netip.Prefix{}, false
	}
	return c.prefix(field, text)
}

// interfaceAddr requires an address with its prefix length.
func (c *checks) interfaceAddr(field, text string) {
	prefix, err := netip.ParsePrefix(text)
	if err != nil || prefix.Addr().Is4In6() || !prefix.Addr().IsGlobalUnicast() {
		c.add(field, "%q must be an address with its prefix length, such as 10.0.0.1/24", text)
	}
}

// exactlyOne requires one of an object's alternatives.
func (c *checks) exactlyOne(field string, given ...bool) {
	n := 0
	for _, g := range given {
		if g {
			n++
		}
	}
	if n != 1 {
		c.add(field, "exactly one of its fields must be given, not %d", n)
	}
}

// device requires a name that the kernel takes for a network device.
func (c *checks) device(field, name string) {
	if !regexp.MustCompile(`^[^\s/:]{1,15}$`).MatchString(name) || name == "." || name == ".." {
		c.add(field, "%q must be the name of a network device", name)
	}
}

func (c *checks) unchanged(field, old, got string) {
	if old != got {
		c.add(field, "%q can't be changed to %q; delete the object and create it anew", old, got)
	}
}
