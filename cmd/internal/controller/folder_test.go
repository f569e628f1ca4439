// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/source"
	"github.com/patchbay-net/patchbay/pkg/source/file"
)

// site is a cluster without an API: a folder of objects, and one of outputs.
type site struct {
	objects, status, config string
}

func newSite(t *testing.T) site {
	t.Helper()
	dir := t.TempDir()
	s := site{filepath.Join(dir, "objects"), filepath.Join(dir, "status"), filepath.Join(dir, "config.yaml")}
	if err := os.Mkdir(s.objects, 0o755); err != nil {
		t.Fatal(err)
	}
	s.write(t, s.config, fmt.Sprintf("nodeName: n1\nsource: file:%s\nlog: {level: error}\npaths: {state: %s, run: %[2]s, status: %s}\n", s.objects, dir, s.status))
	return s
}

func (s site) write(t *testing.T, path, text string) {
	t.Helper()
	temp := path + ".tmp"
	if err := os.WriteFile(temp, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(temp, path); err != nil {
		t.Fatal(err)
	}
}

func (s site) pool(t *testing.T, cidr string) {
	s.write(t, filepath.Join(s.objects, "pool.yaml"), `
apiVersion: patchbay.net/v1alpha1
kind: IPPool
metadata: {name: external}
spec: {use: LoadBalancer, cidrs: [`+cidr+`]}
`)
}

func (s site) path(service string) string { return filepath.Join(s.objects, service+".yaml") }

func (s site) service(t *testing.T, name string) {
	s.write(t, s.path(name), `
apiVersion: v1
kind: Service
metadata: {namespace: default, name: `+name+`}
spec: {type: LoadBalancer, clusterIP: 10.96.0.1, ports: [{port: 80}]}
`)
}

func (s site) remove(t *testing.T, name string) {
	t.Helper()
	if err := os.Remove(s.path(name)); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
}

// start runs the whole program but the signals, until the returned function is
// called.
func (s site) start(t *testing.T) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- run(ctx, s.config, "") }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("want a clean end, got %v", err)
		}
	}
}

// view is what the objects and outputs say at one time.
type view struct {
	services map[string]*corev1.Service
	records  map[string]v1alpha1.IPAllocationSpec
}

func (s site) look(t *testing.T) view {
	t.Helper()
	src, err := file.New(file.Options{Dir: s.objects, StatusDir: s.status, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	v := view{map[string]*corev1.Service{}, map[string]v1alpha1.IPAllocationSpec{}}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var once sync.Once
	err = src.Run(ctx, kinds(), func(ev source.Event) {
		switch obj := ev.Object.(type) {
		case *corev1.Service:
			v.services[obj.Name] = obj
		case *v1alpha1.IPAllocation:
			v.records[obj.Spec.Address] = obj.Spec
		}
		if ev.Op == source.Synced {
			once.Do(cancel)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func (v view) addrs(name string) string {
	var list []string
	if svc := v.services[name]; svc != nil {
		for _, in := range svc.Status.LoadBalancer.Ingress {
			list = append(list, in.IP)
		}
	}
	return strings.Join(list, " ")
}

// check requires that no address is in two statuses or without its record.
func (v view) check(t *testing.T) {
	t.Helper()
	seen := map[string]string{}
	for name, svc := range v.services {
		for _, in := range svc.Status.LoadBalancer.Ingress {
			if other, ok := seen[in.IP]; ok {
				t.Fatalf("%s and %s both have %s", name, other, in.IP)
			}
			seen[in.IP] = name
			if r := v.records[in.IP]; !slices.Contains(r.Owners, v1alpha1.ServiceReference{Namespace: "default", Name: name}) {
				t.Fatalf("status of %s names %s, of which the record is %+v", name, in.IP, r)
			}
		}
	}
}

// until waits for a Service's addresses to be as ok wants them. Between looks,
// which read all files, it leaves the machine to the controllers.
func (s site) until(t *testing.T, name, want string, ok func(addrs string) bool) {
	t.Helper()
	deadline, pause := time.NewTimer(3*time.Minute), time.NewTimer(0)
	defer deadline.Stop()
	defer pause.Stop()
	got := ""
	for {
		select {
		case <-pause.C:
		case <-deadline.C:
			t.Fatalf("want %s to have %s, got %q", name, want, got)
		}
		began := time.Now()
		v := s.look(t)
		v.check(t)
		if got = v.addrs(name); ok(got) {
			return
		}
		pause.Reset(20*time.Millisecond + 5*time.Since(began))
	}
}

// untilHas waits for a Service to have an address, or to have none.
func (s site) untilHas(t *testing.T, name, want string) {
	t.Helper()
	s.until(t, name, strconv.Quote(want), func(addrs string) bool { return addrs == want })
}

func TestFolder(t *testing.T) {
	s := newSite(t)
	s.service(t, "web")
	defer s.start(t)()
	s.pool(t, "192.0.2.0/29")
	s.untilHas(t, "web", "192.0.2.1")
	s.service(t, "api")
	s.untilHas(t, "api", "192.0.2.2")
	s.remove(t, "web")
	s.untilHas(t, "web", "")
	s.service(t, "new")
	s.untilHas(t, "new", "192.0.2.3")
	s.service(t, "web")
	s.untilHas(t, "web", "192.0.2.1")

	// A file cut in half says nothing: the address stays.
	whole, err := os.ReadFile(s.path("web"))
	if err != nil {
		t.Fatal(err)
	}
	s.write(t, s.path("web"), string(whole[:len(whole)/2]))
	s.service(t, "more")
	s.untilHas(t, "more", "192.0.2.4")
	s.write(t, s.path("web"), string(whole))
	s.untilHas(t, "web", "192.0.2.1")
}

// A second controller on the same folders waits, and goes on where the first
// left off.
func TestFolderOneAtATime(t *testing.T) {
	s := newSite(t)
	s.pool(t, "192.0.2.0/29")
	s.service(t, "web")
	stopFirst := s.start(t)
	s.untilHas(t, "web", "192.0.2.1")
	defer s.start(t)()
	s.service(t, "api")
	s.untilHas(t, "api", "192.0.2.2")
	stopFirst()
	s.service(t, "db")
	s.untilHas(t, "db", "192.0.2.3")
}

// controllerEnv has the test binary be the controller, with this configuration.
const controllerEnv = "PATCHBAY_TEST_CONTROLLER"

func TestMain(m *testing.M) {
	path := os.Getenv(controllerEnv)
	if path == "" {
		os.Exit(m.Run())
	}
	os.Exit(Main([]string{"-config", path, "-health", ""}))
}

// command returns the program as a command, and where its complaints go.
func (s site) command(t *testing.T) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), controllerEnv+"="+s.config)
	cmd.Stderr = &stderr
	return cmd, &stderr
}

// startProcess starts the program as a process, until the returned function
// kills it.
func (s site) startProcess(t *testing.T) (kill func()) {
	t.Helper()
	cmd, stderr := s.command(t)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return func() {
		_ = cmd.Process.Kill()
		if _ = cmd.Wait(); cmd.ProcessState.Exited() {
			t.Errorf("want it killed, but it ended by itself: %s", stderr)
		}
	}
}

// TestFolderRestarts starts the program 1,000 times, and kills it at any moment,
// while files come and go. The long-lived Services' addresses never change,
// none is given twice.
func TestFolderRestarts(t *testing.T) {
	const sites = 10 // at once
	rounds := 1000 / sites
	if testing.Short() {
		rounds = 2
	}
	var lanes sync.WaitGroup
	for i := range sites {
		lanes.Go(func() {
			t.Run(fmt.Sprint("site ", i), func(t *testing.T) {
				restarts(t, rand.New(rand.NewPCG(9, uint64(i))), rounds)
			})
		})
	}
	lanes.Wait()
}

func restarts(t *testing.T, r *rand.Rand, rounds int) {
	s := newSite(t)
	s.pool(t, "192.0.2.0/28")
	keep := map[string]string{}
	stop := s.start(t)
	for i := range 4 {
		name := fmt.Sprint("old", i)
		s.service(t, name)
		keep[name] = fmt.Sprint("192.0.2.", i+1)
		s.untilHas(t, name, keep[name])
	}
	stop()
	for round := range rounds {
		kill := s.startProcess(t)
		for range r.IntN(3) {
			if name := fmt.Sprint("s", r.IntN(6)); r.IntN(2) == 0 {
				s.service(t, name)
			} else {
				s.remove(t, name)
			}
		}
		timer := time.NewTimer(time.Duration(r.IntN(400)) * time.Millisecond)
		<-timer.C
		kill()
		v := s.look(t)
		v.check(t)
		for name, want := range keep {
			if got := v.addrs(name); got != want {
				t.Fatalf("round %d: want %s to keep %s, got %q", round, name, want, got)
			}
		}
	}
	defer s.start(t)()
	for i := range 6 {
		s.service(t, fmt.Sprint("s", i))
	}
	for i := range 6 {
		name := fmt.Sprint("s", i)
		s.until(t, name, "an address after all", func(addrs string) bool { return addrs != "" })
	}
}
