// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/source"
	"github.com/patchbay-net/patchbay/pkg/source/sourcetest"
)

func pool(name, cidr string) *v1alpha1.IPPool {
	return &v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.IPPoolSpec{Use: v1alpha1.UseLoadBalancer, CIDRs: []string{cidr}}}
}

// TestListingAnew: after a gap that the server can't fill, only differences are
// emitted, and no second Synced.
func TestListingAnew(t *testing.T) {
	s := newAPIServer(t)
	for _, name := range []string{"stays", "changes", "goes"} {
		s.put(t, pool(name, "203.0.113.0/28"))
	}
	r := sourcetest.Record(t, s.client(t), source.KindIPPool)
	from := r.WaitSynced(t, source.KindIPPool)
	s.mu.Lock() // all at once, so that the watch sees none of it
	s.gone["/apis/patchbay.net/v1alpha1/ippools"] = http.StatusServiceUnavailable
	s.mu.Unlock()
	s.compact()
	s.put(t, pool("changes", "203.0.113.0/27"))
	s.remove(t, source.KindIPPool, source.Key{Name: "goes"})
	s.put(t, pool("comes", "203.0.113.32/28"))
	s.mu.Lock()
	delete(s.gone, "/apis/patchbay.net/v1alpha1/ippools")
	s.mu.Unlock()
	r.WaitFor(t, from, source.Delete, source.KindIPPool, source.Key{Name: "goes"})
	want := "upsert IPPool changes\nupsert IPPool comes\ndelete IPPool goes\n"
	if diff := cmp.Diff(want, sourcetest.Steps(r.Events()[from:])); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

// TestKindThatCannotBeRead: one that the server doesn't know or doesn't show us
// is a Problem told once, and doesn't hold up the others.
func TestKindThatCannotBeRead(t *testing.T) {
	s := newAPIServer(t)
	s.gone["/apis/patchbay.net/v1alpha1/bgppeers"] = http.StatusNotFound
	s.gone["/apis/networking.k8s.io/v1/networkpolicies"] = http.StatusForbidden
	r := sourcetest.Record(t, s.client(t), source.KindBGPPeer, source.KindNetworkPolicy, source.KindIPPool)
	r.WaitSynced(t, source.KindIPPool)
	for _, kind := range []source.Kind{source.KindBGPPeer, source.KindNetworkPolicy} {
		ev, _ := r.WaitFor(t, 0, source.Problem, kind, source.Key{})
		if !strings.Contains(ev.Err.Error(), string(kind)) {
			t.Errorf("problem = %v, want one that names %s", ev.Err, kind)
		}
	}
	s.mu.Lock()
	clear(s.gone)
	s.mu.Unlock()
	r.WaitSynced(t, source.KindBGPPeer, source.KindNetworkPolicy)
	problems := slices.DeleteFunc(r.Events(), func(ev source.Event) bool { return ev.Op != source.Problem })
	if len(problems) != 2 {
		t.Errorf("problems:\n%s, want each told once", sourcetest.Steps(problems))
	}
}

func TestPodsOfOneNode(t *testing.T) {
	s := newAPIServer(t)
	for _, node := range []string{"n1", "n2"} {
		s.put(t, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web-" + node, Annotations: map[string]string{v1alpha1.AnnotationPools: "a", corev1.LastAppliedConfigAnnotation: "{}"}},
			Spec:       corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "web", Image: "web:1", Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 80}}}}},
			Status:     corev1.PodStatus{PodIPs: []corev1.PodIP{{IP: "10.244.0.5"}}, Message: "much more"},
		})
	}
	c, err := New(Options{Kubeconfig: s.kubeconfig(t), KubeletConfigs: []string{}, PodsOfNode: "n1", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	r := sourcetest.Record(t, c, source.KindPod)
	r.WaitSynced(t, source.KindPod)
	if got := sourcetest.Steps(r.Events()); got != "upsert Pod shop/web-n1\nsynced Pod \n" {
		t.Errorf("events:\n%s, want the pods of n1 alone", got)
	}
	pod := r.Events()[0].Object.(*corev1.Pod)
	want := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web-n1", UID: pod.UID, ResourceVersion: pod.ResourceVersion, Annotations: map[string]string{v1alpha1.AnnotationPools: "a"}},
		Spec:       corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{Name: "web", Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 80}}}}},
		Status:     corev1.PodStatus{PodIPs: []corev1.PodIP{{IP: "10.244.0.5"}}},
	}
	if diff := cmp.Diff(want, pod); diff != "" {
		t.Errorf("pod is trimmed otherwise (-want +got):\n%s", diff)
	}
}

// TestHeartbeatIsNoChange: what kubelets write every few minutes concerns
// nobody.
func TestHeartbeatIsNoChange(t *testing.T) {
	s := newAPIServer(t)
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Status: corev1.NodeStatus{
		Addresses:  []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.1"}},
		Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastHeartbeatTime: metav1.Unix(1, 0)}},
		Images:     []corev1.ContainerImage{{Names: []string{"web"}}},
	}}
	s.put(t, node)
	r := sourcetest.Record(t, s.client(t), source.KindNode)
	from := r.WaitSynced(t, source.KindNode)
	node.Status.Conditions[0].LastHeartbeatTime = metav1.Unix(300, 0)
	s.put(t, node)
	node.Status.Conditions[0].Status = corev1.ConditionFalse
	s.put(t, node)
	ev, _ := r.WaitFor(t, from, source.Upsert, source.KindNode, source.Key{Name: "n1"})
	got := ev.Object.(*corev1.Node).Status
	if got.Conditions[0].Status != corev1.ConditionFalse || got.Images != nil || len(got.Addresses) != 1 {
		t.Errorf("first change = %+v, want that of the condition", got)
	}
}

func TestUpdateStatusOfAnotherObject(t *testing.T) {
	s := newAPIServer(t)
	c := s.client(t)
	s.put(t, pool("external", "203.0.113.0/28"))
	old := pool("external", "203.0.113.0/28")
	old.UID = "uid-of-the-one-before"
	old.Status.Total = 14
	if err := c.UpdateStatus(t.Context(), old); !errors.Is(err, source.ErrNotFound) {
		t.Errorf("error = %v, want ErrNotFound", err)
	}
}

// closedPort returns an address that refuses connections.
func closedPort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return "http://" + l.Addr().String()
}

func TestServersInOrder(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "fd00:96::1")
	t.Setenv("KUBERNETES_SERVICE_PORT", "443")
	dir := t.TempDir()
	kubelet := filepath.Join(dir, "kubelet.conf")
	text := "contexts: [{name: x, context: {cluster: c, user: u}}]\ncurrent-context: x\nclusters: [{name: c, cluster: {server: 'https://192.0.2.1:6443'}}]\nusers: [{name: u, user: {}}]\n"
	if err := os.WriteFile(kubelet, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "apiservers"), []byte("https://192.0.2.9:6443\nnonsense://\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	opts := Options{APIServers: []string{"192.0.2.7", "https://192.0.2.8:443/"}, KubeletConfigs: []string{filepath.Join(dir, "none"), kubelet}, StateDir: dir, Log: slog.New(slog.DiscardHandler)}
	s, err := newServers(opts, "https://192.0.2.1:6443")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"https://192.0.2.7:6443", "https://192.0.2.8:443", "https://192.0.2.1:6443", "https://[fd00:96::1]:443", "https://192.0.2.9:6443"}
	if diff := cmp.Diff(want, s.order()); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
	for _, wrong := range []string{"ftp://x", "https://x/clusters/y", "https://"} {
		if _, err := newServers(Options{APIServers: []string{wrong}, Log: opts.Log}, ""); err == nil || !strings.Contains(err.Error(), wrong) {
			t.Errorf("error = %v, want one that names %s", err, wrong)
		}
	}
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	if _, err := newServers(Options{Log: opts.Log}, ""); err == nil {
		t.Error("no server at all is no error")
	}
}

func apiSlice(addrs ...string) *discoveryv1.EndpointSlice {
	port := int32(6443)
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: "kubernetes", Labels: map[string]string{discoveryv1.LabelServiceName: "kubernetes"}},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Port: &port}},
	}
	for _, addr := range addrs {
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{addr}})
	}
	return slice
}

// TestServersLearned: they are kept on disk for the next start, and never
// forgotten for none.
func TestServersLearned(t *testing.T) {
	s := newAPIServer(t)
	dir := t.TempDir()
	c, err := New(Options{Kubeconfig: s.kubeconfig(t), KubeletConfigs: []string{}, StateDir: dir, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	s.put(t, apiSlice("192.0.2.2", "192.0.2.1"))
	r := sourcetest.Record(t, c, source.KindEndpointSlice)
	from := r.WaitSynced(t, source.KindEndpointSlice)
	s.put(t, apiSlice())
	_, from = r.WaitFor(t, from, source.Upsert, source.KindEndpointSlice, source.Key{Namespace: "default", Name: "kubernetes"})
	s.remove(t, source.KindEndpointSlice, source.Key{Namespace: "default", Name: "kubernetes"})
	r.WaitFor(t, from, source.Delete, source.KindEndpointSlice, source.Key{Namespace: "default", Name: "kubernetes"})
	r.Stop(t)
	data, err := os.ReadFile(filepath.Join(dir, "apiservers"))
	if want := "https://192.0.2.1:6443\nhttps://192.0.2.2:6443\n"; err != nil || string(data) != want {
		t.Errorf("kept = %q, %v; want %q", data, err, want)
	}
}

// TestFailover: a server that can't be reached is passed over, for writes too.
func TestFailover(t *testing.T) {
	s := newAPIServer(t)
	c, err := New(Options{Kubeconfig: s.kubeconfig(t), APIServers: []string{closedPort(t)}, KubeletConfigs: []string{}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Apply(t.Context(), pool("external", "203.0.113.0/28")); err != nil {
		t.Fatal(err)
	}
	r := sourcetest.Record(t, c, source.KindIPPool)
	r.WaitSynced(t, source.KindIPPool)
	if got := c.servers.order()[0]; got != s.url {
		t.Errorf("first server is %s, want the one that answers", got)
	}
}

func TestNobodyAnswers(t *testing.T) {
	first, second := closedPort(t), closedPort(t)
	s := &apiServer{url: first}
	c, err := New(Options{Kubeconfig: s.kubeconfig(t), APIServers: []string{second}, KubeletConfigs: []string{}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	err = c.Apply(t.Context(), pool("external", "203.0.113.0/28"))
	for _, want := range []string{"apply IPPool external", first, second} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error = %v, want it to say %q", err, want)
		}
	}
}

func TestCredentials(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	file := func(context, user string) string {
		return fmt.Sprintf("current-context: %s\ncontexts: [{name: a, context: {cluster: c, user: u}}, {name: b, context: {cluster: none, user: u}}]\nclusters: [{name: c, cluster: {server: 'https://192.0.2.1:6443', certificate-authority: ca.crt}}]\nusers: [{name: u, user: %s}]\n", context, user)
	}
	for _, tt := range []struct {
		name, text, wrong string
	}{
		{"token", file("a", "{token: secret}"), ""},
		{"certificate", file("a", "{client-certificate: c.crt, client-key: /etc/c.key}"), ""},
		{"no such context", file("z", "{}"), `context "z"`},
		{"no such cluster", file("b", "{}"), `cluster "none"`},
		{"program", file("a", "{exec: {command: aws}}"), "exec"},
		{"not YAML", "{{", "yaml"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := write("config", tt.text)
			config, server, err := credentials(Options{Kubeconfig: path})
			if tt.wrong != "" {
				if err == nil || !strings.Contains(err.Error(), tt.wrong) || !strings.Contains(err.Error(), path) {
					t.Errorf("error = %v, want %q and the file", err, tt.wrong)
				}
				return
			}
			if err != nil || server != "https://192.0.2.1:6443" || config.CAFile != filepath.Join(dir, "ca.crt") {
				t.Errorf("server %s, CA %s, error %v", server, config.CAFile, err)
			}
		})
	}
	if _, _, err := credentials(Options{ServiceAccountDir: dir}); err == nil {
		t.Error("no credentials are no error")
	}
	write("token", "secret")
	config, _, err := credentials(Options{ServiceAccountDir: dir})
	if err != nil || config.BearerTokenFile != filepath.Join(dir, "token") || config.CAFile != filepath.Join(dir, "ca.crt") {
		t.Errorf("service account: %+v, %v", config, err)
	}
}

func TestEvents(t *testing.T) {
	s := newAPIServer(t)
	c := s.client(t)
	rec := c.Recorder("n1")
	now := time.Unix(1000, 0)
	write := func(at time.Time) {
		rec.Event(pool("external", "203.0.113.0/28"), corev1.EventTypeWarning, "Conflict", "203.0.113.3 is in use")
		if err := rec.write(t.Context(), <-rec.queue, at); err != nil {
			t.Fatal(err)
		}
	}
	write(now)
	write(now.Add(time.Minute))
	write(now.Add(time.Hour))
	s.mu.Lock()
	defer s.mu.Unlock()
	counts := map[any]int{}
	for path, obj := range s.objects {
		if !strings.HasPrefix(path, "/api/v1/namespaces/default/events/external.") || obj["reason"] != "Conflict" || obj["involvedObject"].(map[string]any)["kind"] != "IPPool" {
			t.Errorf("event at %s: %v", path, obj)
		}
		counts[obj["count"]]++
	}
	if diff := cmp.Diff(map[any]int{2.0: 1, 1.0: 1}, counts); diff != "" {
		t.Errorf("counts of events (-want +got):\n%s", diff)
	}
}

// TestEventsOfSeveralNodes: what two nodes find makes one event.
func TestEventsOfSeveralNodes(t *testing.T) {
	s := newAPIServer(t)
	c := s.client(t)
	for _, say := range []struct{ node, message string }{{"n1", "no"}, {"n2", "no"}, {"n1", "no"}, {"n2", "never"}} {
		rec := c.Recorder(say.node)
		rec.Tell(pool("external", "203.0.113.0/28"), corev1.EventTypeWarning, "Refused", say.message)
		if err := rec.write(t.Context(), <-rec.queue, time.Unix(1000, 0)); err != nil {
			t.Fatal(err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	counts := map[any]any{}
	for _, obj := range s.objects {
		counts[obj["message"]] = obj["count"]
	}
	if diff := cmp.Diff(map[any]any{"no": 3.0, "never": 1.0}, counts); diff != "" {
		t.Errorf("counts of events (-want +got):\n%s", diff)
	}
}

func TestEventsNeverBlock(t *testing.T) {
	rec := newAPIServer(t).client(t).Recorder("n1")
	for range 1000 {
		rec.Event(pool("external", "203.0.113.0/28"), corev1.EventTypeWarning, "Conflict", "again")
	}
}
