// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/patchbay-net/patchbay/pkg/datapath/probe"
	"github.com/patchbay-net/patchbay/pkg/netdev"
)

// network are the kernel's tables.
func (c *collector) network(ctx context.Context) error {
	links, err := netdev.Links()
	if err := c.addValue("network/links.json", links, err); err != nil {
		return err
	}
	pods, err := netdev.PodLinks()
	if err := c.addValue("network/podlinks.json", pods, err); err != nil {
		return err
	}
	for name, list := range map[string]func() ([]string, error){
		"routes": func() ([]string, error) {
			return texts(func() ([]netlink.Route, error) { return netlink.RouteList(nil, netlink.FAMILY_ALL) }) //nolint:forbidigo // texts lists through Dump
		},
		"rules": func() ([]string, error) {
			return texts(func() ([]netlink.Rule, error) { return netlink.RuleList(netlink.FAMILY_ALL) }) //nolint:forbidigo // texts lists through Dump
		},
		"neighbours": func() ([]string, error) {
			return texts(func() ([]netlink.Neigh, error) { return netlink.NeighList(0, 0) }) //nolint:forbidigo // texts lists through Dump
		},
	} {
		lines, err := list()
		if err != nil {
			c.miss("network/"+name, err)
			continue
		}
		if err := c.add("network/"+name+".txt", []byte(strings.Join(lines, "\n")+"\n")); err != nil {
			return err
		}
	}
	return c.outputs(ctx)
}

// texts are a netlink list as lines.
func texts[T any](list func() ([]T, error)) ([]string, error) {
	items, err := netdev.Dump(list)
	if err != nil {
		return nil, err
	}
	var lines []string
	for _, item := range items {
		lines = append(lines, fmt.Sprintf("%+v", item))
	}
	return lines, nil
}

// outputs are what programs show that may be there: they say more than we can.
func (c *collector) outputs(ctx context.Context) error {
	for name, args := range map[string][]string{
		"network/nft.txt":       {"nft", "list", "table", "inet", "patchbay"},
		"network/addresses.txt": {"ip", "-d", "-s", "addr"},
		"network/programs.txt":  {"bpftool", "net", "show"},
		"network/sockets.txt":   {"ss", "-s"},
	} {
		if _, err := exec.LookPath(args[0]); err != nil {
			c.miss(name, err)
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
		cancel()
		if err != nil {
			c.miss(name, fmt.Errorf("%w: %s", err, out))
			continue
		}
		if err := c.add(name, out); err != nil {
			return err
		}
	}
	return nil
}

// settings are the kernel's that matter.
func (c *collector) settings(context.Context) error {
	var b strings.Builder
	for _, pattern := range []string{
		"kernel/osrelease", "kernel/version", "net/ipv4/ip_forward", "net/ipv4/conf/*/rp_filter", "net/ipv4/conf/*/arp_*", "net/ipv4/conf/*/forwarding",
		"net/ipv6/conf/*/forwarding", "net/ipv6/conf/*/disable_ipv6", "net/core/bpf_jit_*", "net/netfilter/nf_conntrack_*", "net/bridge/*",
	} {
		paths, err := filepath.Glob("/proc/sys/" + pattern)
		if err != nil {
			return err
		}
		for _, p := range paths {
			if text, err := os.ReadFile(p); err == nil {
				fmt.Fprintf(&b, "%s = %s\n", strings.ReplaceAll(strings.TrimPrefix(p, "/proc/sys/"), "/", "."), strings.TrimSpace(string(text)))
			}
		}
	}
	return c.add("sysctls.txt", []byte(b.String()))
}

// maps are the datapath's, in numbers.
func (c *collector) maps(context.Context) error {
	maps, err := probe.Maps(c.config.Paths.BPF)
	return c.addValue("maps.json", maps, err)
}

// metrics are the agent's and its health.
func (c *collector) metrics(ctx context.Context) error {
	for name, url := range map[string]string{
		"metrics.txt": "http://127.0.0.1:10249/metrics", "healthz.json": "http://127.0.0.1:10256/healthz",
		"controller-metrics.txt": "http://127.0.0.1:10259/metrics",
	} {
		text, err := get(ctx, url)
		if err != nil {
			c.miss(name, err)
			continue
		}
		if err := c.add(name, text); err != nil {
			return err
		}
	}
	return nil
}

func get(ctx context.Context, url string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	return io.ReadAll(io.LimitReader(response.Body, longestFile))
}

// logs are where container runtimes and supervisors put ours.
func (c *collector) logs(context.Context) error {
	for _, pattern := range []string{"/var/log/pods/patchbay-system_*/*/*.log", "/var/log/containers/patchbay*.log", "/var/log/patchbay/*.log"} {
		paths, err := filepath.Glob(c.path(pattern))
		if err != nil {
			return err
		}
		for _, p := range paths {
			rel, err := filepath.Rel(c.path("/var/log"), p)
			if err != nil {
				return err
			}
			if err := c.addFile(filepath.Join("logs", rel), p); err != nil {
				return err
			}
		}
	}
	return nil
}
