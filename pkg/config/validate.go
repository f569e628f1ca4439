// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"time"
)

// Validate returns all faults of c, joined; each names its key.
func (c Config) Validate() error {
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }

	if dir, ok := c.SourceDir(); c.Source != "kube" && (!ok || !filepath.IsAbs(dir)) {
		fault("source: %q is neither \"kube\" nor \"file:\" with an absolute folder", c.Source)
	}
	for i, s := range c.APIServers {
		if u, err := url.Parse(s); err != nil || u.Scheme != "https" || u.Host == "" {
			fault("apiServers[%d]: %q is not an https URL", i, s)
		}
	}
	for i, n := range c.NICs {
		if err := n.validate(); err != nil {
			fault("nics[%d]: %w", i, err)
		}
	}
	errs = append(errs, c.validateRanges()...)
	errs = append(errs, c.validateValues()...)
	for key, p := range map[string]string{"state": c.Paths.State, "run": c.Paths.Run, "bpf": c.Paths.BPF,
		"cniConf": c.Paths.CNIConf, "status": c.Paths.Status, "sysctl": c.Paths.Sysctl} {
		if !filepath.IsAbs(p) {
			fault("paths.%s: %q is not absolute", key, p)
		}
	}
	return errors.Join(errs...)
}

func (n NIC) validate() error {
	given := 0
	for _, set := range []bool{n.Name != "", n.MAC != "", n.Subnet.IsValid()} {
		if set {
			given++
		}
	}
	if given != 1 {
		return errors.New("give exactly one of name, mac, subnet")
	}
	if n.MAC != "" {
		if _, err := net.ParseMAC(n.MAC); err != nil {
			return fmt.Errorf("mac: %w", err)
		}
	}
	if !slices.Contains([]Role{RoleInternal, RoleExternal, RoleIgnored}, n.Role) {
		return fmt.Errorf("role: %q is not internal, external or ignored", n.Role)
	}
	return nil
}

// validateRanges refuses ranges with host bits and overlaps between pods and Services.
func (c Config) validateRanges() []error {
	var errs []error
	for key, list := range map[string][]netip.Prefix{"podCIDRs": c.PodCIDRs,
		"serviceCIDRs": c.ServiceCIDRs, "masquerade.exclude": c.Masquerade.Exclude} {
		for i, p := range list {
			if !p.IsValid() || p != p.Masked() {
				errs = append(errs, fmt.Errorf("%s[%d]: %s is not a network (did you mean %s?)", key, i, p, p.Masked()))
			}
		}
	}
	for _, pods := range c.PodCIDRs {
		for _, svc := range c.ServiceCIDRs {
			if pods.Overlaps(svc) {
				errs = append(errs, fmt.Errorf("podCIDRs %s overlaps serviceCIDRs %s", pods, svc))
			}
		}
	}
	return errs
}

func (c Config) validateValues() []error {
	var errs []error
	oneOf := func(key, value string, allowed ...string) {
		if !slices.Contains(allowed, value) {
			errs = append(errs, fmt.Errorf("%s: %q is none of %q", key, value, allowed))
		}
	}
	oneOf("routing.mode", string(c.Routing.Mode), "auto", "native", "vxlan")
	oneOf("loadBalancer.replyPath", c.LoadBalancer.ReplyPath, "ingress") // direct return isn't there yet
	oneOf("policy.untilSynced", c.Policy.UntilSynced, "deny", "allow")
	for i, r := range c.Services.NodePortNICs {
		oneOf(fmt.Sprintf("services.nodePortNICs[%d]", i), string(r), "internal", "external")
	}
	if err := new(slog.Level).UnmarshalText([]byte(c.Log.Level)); err != nil {
		errs = append(errs, fmt.Errorf("log.level: %w", err))
	}
	for key, mtu := range map[string]int{"routing.mtu": c.Routing.MTU, "cni.mtu": c.CNI.MTU} {
		if mtu != 0 && (mtu < 1280 || mtu > 65535) {
			errs = append(errs, fmt.Errorf("%s: %d is not between 1280 and 65535", key, mtu))
		}
	}
	if c.Routing.VXLAN.VNI >= 1<<24 {
		errs = append(errs, fmt.Errorf("routing.vxlan.vni: %d needs more than 24 bits", c.Routing.VXLAN.VNI))
	}
	if c.LoadBalancer.AnnouncementExpiry < Duration(5*time.Second) {
		errs = append(errs, errors.New("loadBalancer.announcementExpiry: must be 5s or more"))
	}
	return errs
}
