// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/patchbay-net/patchbay/test/cluster/internal/artefacts"
	"github.com/patchbay-net/patchbay/test/cluster/internal/lab"
	"github.com/patchbay-net/patchbay/test/cluster/internal/oci"
	"github.com/patchbay-net/patchbay/test/cluster/manifests"
)

const shop = "shop" // the application's namespace

// answer is what a web server of the application replies.
type answer struct {
	Pod    string `json:"pod"`
	Client string `json:"client"`
	Row    struct {
		Text string `json:"text"`
	} `json:"row"`
}

// app runs the two-tier application: its names, its addresses, its clients'
// addresses, and that no request is lost while pods come and go.
func (e *env) app(ctx context.Context, l *lab.Lab) error {
	if err := e.deployApp(ctx, l); err != nil {
		return err
	}
	steps := []struct {
		name string
		run  func(context.Context, *lab.Lab) error
	}{
		{"names resolve over UDP and TCP", e.checkNames},
		{"ClusterIP answers inside and not outside", e.checkClusterIP},
		{"LoadBalancer address: every pod serves, the client's address is seen", e.checkBalance},
		{"no request is lost while a pod is deleted", e.checkDelete},
		{"no request is lost during a rolling update", e.checkRollout},
	}
	for _, step := range steps {
		start := time.Now()
		if err := step.run(ctx, l); err != nil {
			return fmt.Errorf("app: %s: %w", step.name, err)
		}
		fmt.Fprintf(e.out, "app: ok, %.1f s: %s\n", time.Since(start).Seconds(), step.name)
	}
	return e.kubectl(ctx, l, []string{"delete", "namespace", shop, "--timeout=60s"})
}

// deployApp builds the web server's image and starts the application.
func (e *env) deployApp(ctx context.Context, l *lab.Lab) error {
	web := filepath.Join(e.root, "bin", "web")
	output, err := filepath.Abs(web)
	if err != nil {
		return err
	}
	b := artefacts.Builder{Source: e.root, Log: os.Stderr}
	if err := b.Go(ctx, ".", "build", "-trimpath", "-ldflags", "-s -w", "-o", output, "./test/app/web"); err != nil {
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
	archive := filepath.Join(l.Dir, "web.tar")
	image := oci.Image{Name: "patchbay.test/web:dev", Layers: []*oci.Layer{layer}, Config: oci.Config{User: "65534:65534", Entrypoint: []string{"/web"}}}
	if err := writeArchive(archive, image); err != nil {
		return err
	}
	if err := l.Import(ctx, archive); err != nil {
		return err
	}
	manifest, err := manifests.Files.ReadFile("app.yaml")
	if err != nil {
		return err
	}
	if err := l.Apply(ctx, bytes.NewReader(manifest)); err != nil {
		return err
	}
	return e.kubectl(ctx, l,
		[]string{"-n", shop, "wait", "--for=condition=Available", "deployment", "--all", "--timeout=60s"},
		[]string{"-n", shop, "wait", "--for=condition=Ready", "pod/probe", "--timeout=30s"},
		[]string{"-n", shop, "wait", "--for=jsonpath={.status.loadBalancer.ingress[0].ip}", "service/web", "--timeout=30s"})
}

// probe runs a command in the application's probe pod.
func (e *env) probe(ctx context.Context, l *lab.Lab, argv ...string) (string, error) {
	out, err := l.Kubectl(ctx, append([]string{"-n", shop, "exec", "probe", "--"}, argv...)...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

// field reads one value of an object of the application.
func (e *env) field(ctx context.Context, l *lab.Lab, object, path string) (string, error) {
	out, err := l.Kubectl(ctx, "-n", shop, "get", object, "-o", "jsonpath={"+path+"}").Output()
	if err != nil {
		return "", fmt.Errorf("get %s: %w", object, err)
	}
	return string(out), nil
}

func (e *env) checkNames(ctx context.Context, l *lab.Lab) error {
	want, err := e.field(ctx, l, "service/database", ".spec.clusterIP")
	if err != nil {
		return err
	}
	for _, transport := range []string{"+notcp", "+tcp"} {
		got, err := e.probe(ctx, l, "dig", "+short", "+search", transport, "database")
		if err != nil {
			return err
		}
		if got != want {
			return fmt.Errorf("dig %s database: want %s, got %q", transport, want, got)
		}
	}
	return nil
}

func (e *env) checkClusterIP(ctx context.Context, l *lab.Lab) error {
	ip, err := e.field(ctx, l, "service/web", ".spec.clusterIP")
	if err != nil {
		return err
	}
	if _, err := e.probe(ctx, l, "curl", "-sf", "-m", "5", "http://"+ip+"/"); err != nil {
		return err
	}
	node := l.Machines[1].External.V4.Addr().String()
	outside := fmt.Sprintf("ip route replace %s via %s && curl -s -m 2 http://%s/; r=$?; ip route del %s; exit $r", ip, node, ip, ip)
	if out, err := l.Client(ctx, "sh", "-c", outside).CombinedOutput(); err == nil {
		return fmt.Errorf("ClusterIP %s answers the outside client: %s", ip, out)
	}
	return nil
}

// frontend is the application's address for the outside.
func (e *env) frontend(ctx context.Context, l *lab.Lab) (netip.AddrPort, error) {
	ip, err := e.field(ctx, l, "service/web", ".status.loadBalancer.ingress[0].ip")
	if err != nil {
		return netip.AddrPort{}, err
	}
	addr, err := netip.ParseAddr(ip)
	return netip.AddrPortFrom(addr, 80), err
}

func (e *env) checkBalance(ctx context.Context, l *lab.Lab) error {
	const requests = 300
	server, err := e.frontend(ctx, l)
	if err != nil {
		return err
	}
	count := map[string]int{}
	for range requests {
		a, err := ask(ctx, l, server)
		if err != nil {
			return err
		}
		count[a.Pod]++
	}
	fmt.Fprintf(e.out, "app: %s served %d requests:", server, requests)
	for _, pod := range slices.Sorted(maps.Keys(count)) {
		fmt.Fprintf(e.out, " %s %d", pod, count[pod])
	}
	fmt.Fprintln(e.out)
	if len(count) != 3 {
		return fmt.Errorf("%d pods served, want 3", len(count))
	}
	for pod, n := range count {
		if n < requests/5 {
			return fmt.Errorf("%s served %d of %d requests, want a fifth at least", pod, n, requests)
		}
	}
	return nil
}

// ask sends one request from outside and checks all of its answer.
func ask(ctx context.Context, l *lab.Lab, server netip.AddrPort) (answer, error) {
	var a answer
	body, err := l.Get(ctx, server, "/")
	if err != nil {
		return a, err
	}
	if err := json.Unmarshal(body, &a); err != nil {
		return a, fmt.Errorf("answer %q: %w", body, err)
	}
	client, err := netip.ParseAddrPort(a.Client)
	if err != nil {
		return a, fmt.Errorf("answer %q: %w", body, err)
	}
	if want := lab.ClientPort().V4.Addr(); client.Addr().Unmap() != want {
		return a, fmt.Errorf("pod %s saw client %s, want %s", a.Pod, client, want)
	}
	if a.Row.Text == "" {
		return a, fmt.Errorf("pod %s answered without a row of the database", a.Pod)
	}
	return a, nil
}

func (e *env) checkDelete(ctx context.Context, l *lab.Lab) error {
	pod, err := e.field(ctx, l, "pod", `.items[?(@.metadata.labels.app=="web")].metadata.name`)
	if err != nil {
		return err
	}
	name, _, _ := strings.Cut(pod, " ")
	return e.underLoad(ctx, l,
		[]string{"-n", shop, "delete", "pod", name, "--timeout=60s"},
		[]string{"-n", shop, "rollout", "status", "deployment/web", "--timeout=60s"})
}

func (e *env) checkRollout(ctx context.Context, l *lab.Lab) error {
	return e.underLoad(ctx, l,
		[]string{"-n", shop, "rollout", "restart", "deployment/web"},
		[]string{"-n", shop, "rollout", "status", "deployment/web", "--timeout=120s"})
}

// underLoad asks without a pause while the kubectl lines run and for a
// second more. Every request must be answered.
func (e *env) underLoad(ctx context.Context, l *lab.Lab, lines ...[]string) error {
	server, err := e.frontend(ctx, l)
	if err != nil {
		return err
	}
	loop, stop := context.WithCancel(ctx)
	defer stop()
	var asked int
	var lost []error
	pods := map[string]bool{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for loop.Err() == nil {
			a, err := ask(ctx, l, server)
			if err != nil {
				lost = append(lost, fmt.Errorf("request %d at %s: %w", asked, time.Now().Format("15:04:05.000"), err))
			}
			pods[a.Pod] = true
			asked++
		}
	}()
	err = e.kubectl(ctx, l, lines...)
	select {
	case <-time.After(time.Second):
	case <-ctx.Done():
	}
	stop()
	<-done
	fmt.Fprintf(e.out, "app: %d requests, %d lost, %d pods served\n", asked, len(lost), len(pods))
	if len(lost) > 0 {
		err = errors.Join(err, fmt.Errorf("%d of %d requests lost, the first: %w", len(lost), asked, lost[0]))
	}
	return err
}
