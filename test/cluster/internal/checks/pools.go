// SPDX-License-Identifier: Apache-2.0

package checks

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// made is what the check of pools applies.
const made = `
apiVersion: patchbay.net/v1alpha1
kind: IPPool
metadata: {name: checks-services}
spec: {use: LoadBalancer, ranges: [{first: 198.51.100.230, last: 198.51.100.231}], autoAssign: false}
---
apiVersion: patchbay.net/v1alpha1
kind: IPPool
metadata: {name: checks-pods}
spec: {use: Pod, cidrs: [10.250.0.0/24], blockSize: 28, autoAssign: false}
---
apiVersion: v1
kind: Service
metadata: {name: pooled, namespace: checks, annotations: {patchbay.net/pools: checks-services}}
spec: {type: LoadBalancer, loadBalancerClass: patchbay.net/lb, selector: {app: echo}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: taken, namespace: checks, annotations: {patchbay.net/addresses: 198.51.100.222}}
spec: {type: LoadBalancer, loadBalancerClass: patchbay.net/lb, selector: {app: echo}, ports: [{port: 80, targetPort: 8080}]}
`

// pools adds some, has addresses out of them, and drains them; and has a Service
// ask for an address that another machine on the network has.
func (s *site) pools(ctx context.Context) error {
	taken := []string{"ip", "address", "add", "198.51.100.222/32", "dev", "eth0"}
	if _, err := output(s.lab.Client(ctx, taken...)); err != nil {
		return err
	}
	defer func() {
		taken[2] = "del"
		_ = s.lab.Client(ctx, taken...).Run() // the client goes with the lab
	}()
	if err := s.lab.Apply(ctx, strings.NewReader(made)); err != nil {
		return err
	}
	if err := s.servicePool(ctx); err != nil {
		return err
	}
	if err := s.podPool(ctx); err != nil {
		return err
	}
	return s.event(ctx, "taken", "198.51.100.222")
}

// podPool has a pod that asks for an address of the pool, which is then drained:
// the pod goes on, another gets none.
func (s *site) podPool(ctx context.Context) error {
	const pod = `
apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: checks, annotations: {patchbay.net/pools: checks-pods}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: agnhost, image: "registry.k8s.io/e2e-test-images/agnhost:2.66.1", args: [netexec, --http-port=8080]}]
`
	if err := s.lab.Apply(ctx, strings.NewReader(fmt.Sprintf(pod, "pooled"))); err != nil {
		return err
	}
	if _, err := s.kubectl(ctx, "wait", "--for=condition=Ready", "pod/pooled", "--timeout=60s"); err != nil {
		return err
	}
	addr, err := s.kubectl(ctx, "get", "pod/pooled", "-o", "jsonpath={.status.podIP}")
	if err != nil {
		return err
	}
	if !strings.HasPrefix(addr, "10.250.0.") {
		return fmt.Errorf("pod pooled has the address %s, want one of pool checks-pods", addr)
	}
	counted := func() error { return s.drain(ctx, "checks-pods", "in use or resting: ") }
	if err := s.await(ctx, 10*time.Second, counted); err != nil {
		return err
	}
	if _, err := s.kubectl(ctx, "exec", "client", "--", "curl", "-sf", "-m", "2", "http://"+addr+":8080/hostname"); err != nil {
		return fmt.Errorf("after its pool was drained: %w", err)
	}
	if err := s.lab.Apply(ctx, strings.NewReader(fmt.Sprintf(pod, "late"))); err != nil {
		return err
	}
	return s.await(ctx, 30*time.Second, func() error {
		text, err := s.kubectl(ctx, "get", "events", "--field-selector", "involvedObject.name=late,involvedObject.kind=Pod", "-o", "jsonpath={.items[*].message}")
		if err != nil {
			return err
		}
		return holds(text, "checks-pods")
	})
}

func (s *site) servicePool(ctx context.Context) error {
	if _, err := s.kubectl(ctx, "wait", "--for=jsonpath={.status.loadBalancer.ingress[0].ip}", "service/pooled", "--timeout=30s"); err != nil {
		return err
	}
	text, err := s.kubectl(ctx, "get", "service/pooled", "-o", "jsonpath={.status.loadBalancer.ingress[0].ip}")
	if err != nil {
		return err
	}
	addr, err := netip.ParseAddr(text)
	if err != nil {
		return err
	}
	if err := holds("198.51.100.230 198.51.100.231", text); err != nil {
		return err
	}
	answers := func() error {
		_, err := s.lab.Get(ctx, netip.AddrPortFrom(addr, 80), "/hostname")
		return err
	}
	if err := s.await(ctx, 10*time.Second, answers); err != nil {
		return err
	}
	if err := s.drain(ctx, "checks-services", text+" is still that of checks/pooled"); err != nil {
		return err
	}
	if err := answers(); err != nil { // what was given stays
		return fmt.Errorf("after its pool was drained: %w", err)
	}
	const second = `
apiVersion: v1
kind: Service
metadata: {name: late, namespace: checks, annotations: {patchbay.net/pools: checks-services}}
spec: {type: LoadBalancer, loadBalancerClass: patchbay.net/lb, selector: {app: echo}, ports: [{port: 80, targetPort: 8080}]}
`
	if err := s.lab.Apply(ctx, strings.NewReader(second)); err != nil {
		return err
	}
	return s.event(ctx, "late", "checks-services")
}

// drain drains a pool of which something is in use: the command says what, and
// exits with 1.
func (s *site) drain(ctx context.Context, pool, left string) error {
	text, err := s.ctl(ctx, "node-b", "pools", "drain", pool)
	if err == nil {
		return fmt.Errorf("pools drain %s exits with 0, want 1: %s", pool, text)
	}
	return holds(text, left, "exit code 1")
}

// event waits for a warning about a Service that says the words, and sees that
// it has no address.
func (s *site) event(ctx context.Context, service string, words ...string) error {
	err := s.await(ctx, 30*time.Second, func() error {
		text, err := s.kubectl(ctx, "get", "events", "--field-selector", "involvedObject.kind=Service,type=Warning,involvedObject.name="+service, "-o", `jsonpath={range .items[*]}{.reason}: {.message}{"\n"}{end}`)
		if err != nil {
			return err
		}
		return holds(text, words...)
	})
	if err != nil {
		return fmt.Errorf("events of %s: %w", service, err)
	}
	text, err := s.kubectl(ctx, "get", "service/"+service, "-o", "jsonpath={.status.loadBalancer.ingress}")
	if err == nil && text != "" {
		err = fmt.Errorf("%s has an address: %s", service, text)
	}
	return err
}
