// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/test/apiserver"
)

// Paths at the API server.
const (
	pathServices    = "/api/v1/namespaces/default/services"
	pathAllocations = "/apis/patchbay.net/v1alpha1/ipallocations"
	pathPools       = "/apis/patchbay.net/v1alpha1/ippools"
	pathLease       = "/apis/coordination.k8s.io/v1/namespaces/" + leaseNamespace + "/leases/" + leaseName
)

// realSite is a cluster with an API server.
type realSite struct {
	*apiserver.Server
	site
}

func newRealSite(t *testing.T) realSite {
	t.Helper()
	s := realSite{Server: apiserver.Start(t)}
	dir := t.TempDir()
	s.config = filepath.Join(dir, "config.yaml")
	s.site.write(t, s.config, fmt.Sprintf("nodeName: n1\nsource: kube\nkubeconfig: %s\nlog: {level: error}\npaths: {state: %s, run: %[2]s}\n", s.Kubeconfig, dir))
	for _, ns := range []string{"default", leaseNamespace} {
		s.Apply(t, "/api/v1/namespaces/"+ns, "{apiVersion: v1, kind: Namespace, metadata: {name: "+ns+"}}")
	}
	s.Apply(t, pathPools+"/external", "{apiVersion: patchbay.net/v1alpha1, kind: IPPool, metadata: {name: external}, spec: {use: LoadBalancer, cidrs: [192.0.2.0/28]}}")
	return s
}

func (s realSite) service(t *testing.T, name string) {
	s.Apply(t, pathServices+"/"+name, "{apiVersion: v1, kind: Service, metadata: {name: "+name+"}, spec: {type: LoadBalancer, loadBalancerClass: patchbay.net/lb, ports: [{port: 80}]}}")
}

// look reads the Services first: a record that is newer than they says no more.
func (s realSite) look(t *testing.T) view {
	t.Helper()
	v := view{map[string]*corev1.Service{}, map[string]v1alpha1.IPAllocationSpec{}}
	var services corev1.ServiceList
	var records v1alpha1.IPAllocationList
	s.Until(t, "all is read", func() error {
		if err := s.Get(pathServices, &services); err != nil {
			return err
		}
		return s.Get(pathAllocations, &records)
	})
	for i := range services.Items {
		v.services[services.Items[i].Name] = &services.Items[i]
	}
	for _, r := range records.Items {
		v.records[r.Spec.Address] = r.Spec
	}
	return v
}

// TestRestartsReal starts the program 100 times on a real API server, amid
// Services that come and go, and ends it at any moment: killed, or by SIGTERM.
func TestRestartsReal(t *testing.T) {
	s := newRealSite(t)
	r := rand.New(rand.NewPCG(11, 12))
	end := s.startProcess(t)
	keep := map[string]string{}
	for i := range 4 {
		name := fmt.Sprint("old", i)
		s.service(t, name)
		s.untilHas(t, name)
	}
	v := s.look(t)
	for i := range 4 {
		name := fmt.Sprint("old", i)
		keep[name] = v.addrs(name)
	}
	end(syscall.SIGTERM)
	given := map[string]bool{}
	for round := range 100 {
		end := s.startProcess(t)
		timer := time.NewTimer(time.Duration(r.IntN(1200)) * time.Millisecond)
		for range r.IntN(4) {
			if name := fmt.Sprint("s", r.IntN(6)); r.IntN(2) == 0 {
				s.service(t, name)
			} else {
				s.Delete(t, pathServices+"/"+name)
			}
		}
		<-timer.C
		end([]syscall.Signal{syscall.SIGKILL, syscall.SIGTERM}[r.IntN(2)])
		v := s.look(t)
		v.check(t)
		for name, want := range keep {
			if got := v.addrs(name); got != want || want == "" {
				t.Fatalf("round %d: want %s to keep %q, got %q", round, name, want, got)
			}
		}
		for name := range v.services {
			given[v.addrs(name)] = true
		}
	}
	defer s.startProcess(t)(syscall.SIGTERM)
	for i := range 6 {
		s.service(t, fmt.Sprint("s", i))
	}
	for i := range 6 {
		s.untilHas(t, fmt.Sprint("s", i))
	}
	if len(given) < 8 { // or the program was never at work
		t.Errorf("want many addresses given, got %v", given)
	}
}

func (s realSite) untilHas(t *testing.T, name string) {
	t.Helper()
	s.Until(t, name+" has an address", func() error {
		v := s.look(t)
		v.check(t)
		if v.addrs(name) == "" {
			return fmt.Errorf("status: %+v", v.services[name].Status)
		}
		return nil
	})
}

// startProcess starts the program, until the returned function ends it. Who is
// killed can't give the Lease back; so that not every round takes its 15 s, it
// is taken from the dead.
func (s realSite) startProcess(t *testing.T) (end func(syscall.Signal)) {
	t.Helper()
	cmd, stderr := s.command(t)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return func(signal syscall.Signal) {
		_ = cmd.Process.Signal(signal)
		_ = cmd.Wait()
		if signal == syscall.SIGKILL {
			s.Delete(t, pathLease)
		} else if code := cmd.ProcessState.ExitCode(); code != 0 && stderr.Len() > 0 { // else it had hardly begun, and didn't listen for signals yet
			t.Errorf("want a clean end, got %d: %s", code, stderr)
		}
	}
}
