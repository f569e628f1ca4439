// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/patchbay-net/patchbay/test/cluster/internal/artefacts"
	"github.com/patchbay-net/patchbay/test/cluster/internal/lab"
	"github.com/patchbay-net/patchbay/test/cluster/internal/oci"
	"github.com/patchbay-net/patchbay/test/cluster/manifests"
)

const shop = "shop" // the application's namespace

// app is the two-tier application on a cluster.
type app struct {
	*env
	lab *lab.Lab
}

// step is one thing that the application's test looks at.
type step struct {
	name string
	run  func(context.Context) error
}

// app runs the two-tier application: its names, its addresses, its clients'
// addresses, and that no request is lost while pods and agents, and with all
// tests nodes, come and go.
func (e *env) app(ctx context.Context, l *lab.Lab) error {
	a := &app{e, l}
	if err := a.deploy(ctx); err != nil {
		return err
	}
	steps := []step{
		{"names resolve over UDP and TCP", a.checkNames},
		{"ClusterIP and pod addresses answer inside and not outside", a.checkInside},
		{"LoadBalancer address: every pod serves, the client's address is seen", a.checkBalance},
		{"no request is lost while a pod is deleted", a.checkDelete},
		{"no request is lost during a rolling update", a.checkRollout},
		{"no request is lost while all agents are replaced", a.checkAgents},
	}
	if e.all {
		steps = append(steps, a.nodeTests()...)
	}
	for _, step := range steps {
		start := time.Now()
		if err := step.run(ctx); err != nil {
			return fmt.Errorf("app: %s: %w", step.name, err)
		}
		fmt.Fprintf(e.out, "app: ok, %.1f s: %s\n", time.Since(start).Seconds(), step.name)
	}
	return e.kubectl(ctx, l, []string{"delete", "namespace", shop, "--timeout=60s"})
}

// webImage builds the web server's image and gives it to the nodes.
func (a *app) webImage(ctx context.Context) error {
	web, err := filepath.Abs(filepath.Join(a.root, "bin", "web"))
	if err != nil {
		return err
	}
	b := artefacts.Builder{Source: a.root, Log: os.Stderr}
	if err := b.Go(ctx, ".", "build", "-trimpath", "-ldflags", "-s -w", "-o", web, "./test/app/web"); err != nil {
		return err
	}
	tree := oci.NewTree()
	if err := tree.File("web", web); err != nil {
		return err
	}
	layer, err := tree.FastLayer()
	if err != nil {
		return err
	}
	archive := filepath.Join(a.lab.Dir, "web.tar")
	image := oci.Image{Name: "patchbay.test/web:dev", Layers: []*oci.Layer{layer}, Config: oci.Config{User: "65534:65534", Entrypoint: []string{"/web"}}}
	if err := writeArchive(archive, image); err != nil {
		return err
	}
	return a.lab.Import(ctx, archive)
}

// deploy starts the application and waits for all of it.
func (a *app) deploy(ctx context.Context) error {
	if err := a.webImage(ctx); err != nil {
		return err
	}
	manifest, err := manifests.Files.ReadFile("app.yaml")
	if err != nil {
		return err
	}
	if err := a.lab.Apply(ctx, bytes.NewReader(manifest)); err != nil {
		return err
	}
	return a.kubectl(ctx, a.lab,
		[]string{"-n", shop, "wait", "--for=condition=Available", "deployment", "--all", "--timeout=60s"},
		[]string{"-n", shop, "wait", "--for=condition=Ready", "pod/probe", "--timeout=30s"},
		[]string{"-n", shop, "wait", "--for=jsonpath={.status.loadBalancer.ingress[0].ip}", "service/web", "--timeout=30s"})
}

// probe runs a command in the application's probe pod.
func (a *app) probe(ctx context.Context, argv ...string) (string, error) {
	out, err := a.lab.Kubectl(ctx, append([]string{"-n", shop, "exec", "probe", "--"}, argv...)...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

// fields reads the values at path in an object of the application.
func (a *app) fields(ctx context.Context, object, path string) ([]string, error) {
	out, err := a.lab.Kubectl(ctx, "-n", shop, "get", object, "-o", "jsonpath={"+path+"}").Output()
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", object, err)
	}
	values := strings.Fields(string(out))
	if len(values) == 0 {
		return nil, fmt.Errorf("get %s: nothing at %s", object, path)
	}
	return values, nil
}

// servers reads addresses at path, one for each family, with the port.
func (a *app) servers(ctx context.Context, object, path string, port uint16) ([]netip.AddrPort, error) {
	values, err := a.fields(ctx, object, path)
	if err != nil {
		return nil, err
	}
	var servers []netip.AddrPort
	for _, value := range values {
		addr, err := netip.ParseAddr(value)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", object, err)
		}
		servers = append(servers, netip.AddrPortFrom(addr, port))
	}
	if want := a.lab.Families(); len(servers) != want {
		return nil, fmt.Errorf("%s has addresses %v, want %d", object, servers, want)
	}
	return servers, nil
}

func (a *app) checkNames(ctx context.Context) error {
	want, err := a.servers(ctx, "service/database", ".spec.clusterIPs[*]", 0)
	if err != nil {
		return err
	}
	records := []string{"A", "AAAA"}
	for i, server := range want {
		for _, transport := range []string{"+notcp", "+tcp"} {
			got, err := a.probe(ctx, "dig", "+short", "+search", transport, "database", records[i])
			if err != nil {
				return err
			}
			if got != server.Addr().String() {
				return fmt.Errorf("dig %s database %s: want %s, got %q", transport, records[i], server.Addr(), got)
			}
		}
	}
	return nil
}

// checkInside asks both addresses from a pod, and from outside with a route to
// them through a node.
func (a *app) checkInside(ctx context.Context) error {
	services, err := a.servers(ctx, "service/web", ".spec.clusterIPs[*]", 80)
	if err != nil {
		return err
	}
	pods, err := a.servers(ctx, "pod/probe", ".status.podIPs[*].ip", 8080)
	if err != nil {
		return err
	}
	for _, server := range append(services, pods...) {
		url := "http://" + server.String() + "/"
		if _, err := a.probe(ctx, "curl", "-sf", "-m", "5", url); err != nil {
			return err
		}
		outside, err := a.lab.Reaches(ctx, a.lab.Machines[1], server.Addr(), "curl", "-sf", "-m", "2", url)
		if err != nil {
			return err
		}
		if outside {
			return fmt.Errorf("%s answers the outside client", url)
		}
	}
	return nil
}
