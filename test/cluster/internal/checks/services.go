// SPDX-License-Identifier: Apache-2.0

package checks

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/patchbay-net/patchbay/test/cluster/internal/lab"
)

// ports are asked for from both networks: node ports are open on internal NICs,
// or where the Service says; host ports on internal ones.
func (s *site) ports(ctx context.Context) error {
	type want struct{ internal, external bool }
	asked := func(node lab.Machine, port uint16, want want) error {
		for _, side := range []struct {
			addr netip.Addr
			open bool
		}{{node.Internal.V4.Addr(), want.internal}, {node.External.V4.Addr(), want.external}} {
			url := "http://" + netip.AddrPortFrom(side.addr, port).String() + "/hostname"
			_, err := output(s.lab.Tester(ctx, "curl", "-sf", "-m", "1", url))
			if open := err == nil; open != side.open {
				return fmt.Errorf("%s answers: %t, want %t", url, open, side.open)
			}
		}
		return nil
	}
	const nodePort, hostPort = 30080, 8088
	err := s.await(ctx, 20*time.Second, func() error {
		node, err := s.host(ctx)
		if err != nil {
			return err
		}
		return asked(node, hostPort, want{internal: true})
	})
	if err != nil {
		return err
	}
	for _, step := range []struct {
		nics string
		want want
	}{
		{"", want{internal: true}},
		{"internal,external", want{true, true}},
		{"external", want{external: true}},
	} {
		if _, err := s.kubectl(ctx, "annotate", "--overwrite", "service/echo", "patchbay.net/nodeport-nics="+step.nics); err != nil {
			return err
		}
		if err := s.await(ctx, 10*time.Second, func() error { return asked(s.lab.Machines[1], nodePort, step.want) }); err != nil {
			return fmt.Errorf("nodeport-nics %q: %w", step.nics, err)
		}
	}
	return nil
}

// host is a node that a server is on.
func (s *site) host(ctx context.Context) (lab.Machine, error) {
	name, err := s.kubectl(ctx, "get", "pod", "-l", "app=echo", "-o", "jsonpath={.items[0].spec.nodeName}")
	if err != nil {
		return lab.Machine{}, err
	}
	i := slices.IndexFunc(s.lab.Machines, func(m lab.Machine) bool { return m.Name == name })
	if i < 0 {
		return lab.Machine{}, fmt.Errorf("no machine %q", name)
	}
	return s.lab.Machines[i], nil
}

// wrong has objects of which something can't be: the rest of them serves, their
// owner reads why, and a metric counts them.
func (s *site) wrong(ctx context.Context) error {
	for object, words := range map[string][]string{
		"Service":       {`"everywhere" is none of internal, external`, "externalIPs: 172.30.0.11 is a node's"},
		"EndpointSlice": {"10.96.0.1 is in a range of Services", "198.51.100.200 is in pool external", "239.1.2.3 is multicast"},
	} {
		err := s.await(ctx, 20*time.Second, func() error {
			text, err := s.kubectl(ctx, "get", "events", "--field-selector", "involvedObject.kind="+object+",involvedObject.name=wrong,reason=Refused", "-o", "jsonpath={.items[*].message}")
			if err != nil {
				return err
			}
			return holds(text, words...)
		})
		if err != nil {
			return err
		}
		text, err := s.on(ctx, "node-b", "curl", "-s", "http://127.0.0.1:10249/metrics")
		if err != nil {
			return err
		}
		if err := holds(text, fmt.Sprintf("\npatchbay_problems{about=%q} 1\n", object), `kubeproxy_network_programming_duration_seconds_count{ip_family="IPv4"}`); err != nil {
			return err
		}
	}
	if err := s.rest(ctx); err != nil {
		return err
	}
	return s.again(ctx)
}

// rest adds one good endpoint to the slice's wrong ones: it serves.
func (s *site) rest(ctx context.Context) error {
	addr, err := s.kubectl(ctx, "get", "pod", "-l", "app=echo", "-o", "jsonpath={.items[0].status.podIP}")
	if err != nil {
		return err
	}
	patch := fmt.Sprintf(`[{"op":"add","path":"/endpoints/-","value":{"addresses":[%q]}}]`, addr)
	if _, err := s.kubectl(ctx, "patch", "endpointslice/wrong", "--type=json", "-p", patch); err != nil {
		return err
	}
	return s.serves(ctx, "service/wrong", 80)
}

// serves asks a Service from a pod, twenty times in a row.
func (s *site) serves(ctx context.Context, service string, port int) error {
	addr, err := s.kubectl(ctx, "get", service, "-o", "jsonpath={.spec.clusterIP}")
	if err != nil {
		return err
	}
	url := fmt.Sprintf("http://%s:%d/hostname", addr, port)
	return s.await(ctx, 10*time.Second, func() error {
		_, err := s.kubectl(ctx, "exec", "client", "--", "sh", "-c", "for i in $(seq 20); do curl -sf -m 1 "+url+" || exit; done")
		return err
	})
}

// again removes a Service and makes one of the same name and address, with
// another port, at once: only that is open.
func (s *site) again(ctx context.Context) error {
	addr, err := s.kubectl(ctx, "get", "service/wrong", "-o", "jsonpath={.spec.clusterIP}")
	if err != nil {
		return err
	}
	if _, err := s.kubectl(ctx, "delete", "service/wrong", "--timeout=20s"); err != nil {
		return err
	}
	manifest := fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: wrong, namespace: %s}
spec: {clusterIP: %s, selector: {app: echo}, ports: [{name: tcp, port: 90, targetPort: 8080}]}
`, namespace, addr)
	if err := s.lab.Apply(ctx, strings.NewReader(manifest)); err != nil {
		return err
	}
	if err := s.serves(ctx, "service/wrong", 90); err != nil {
		return err
	}
	if text, err := s.kubectl(ctx, "exec", "client", "--", "curl", "-sf", "-m", "1", "http://"+addr+":80/hostname"); err == nil {
		return fmt.Errorf("port 80, which is no more, answers: %s", text)
	}
	return nil
}
