// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"github.com/patchbay-net/patchbay/deploy/crds"
	"github.com/patchbay-net/patchbay/pkg/source"
	"github.com/patchbay-net/patchbay/pkg/source/sourcetest"
)

// kubeBinary names, in the environment, the program that is etcd and
// kube-apiserver by the name it is called by.
const kubeBinary = "PATCHBAY_TEST_KUBE"

// realServer is etcd and kube-apiserver on the loopback of whatever network
// namespace the test runs in.
type realServer struct {
	dir, binary string
	client      *Client
}

func startReal(t *testing.T) *realServer {
	t.Helper()
	binary := os.Getenv(kubeBinary)
	if binary == "" {
		t.Skipf("%s doesn't name etcd and kube-apiserver (test/cluster builds them)", kubeBinary)
	}
	s := &realServer{dir: t.TempDir(), binary: binary}
	etcd, peer, port := "http://"+freePort(t), "http://"+freePort(t), freePort(t)
	s.start(t, "etcd", "--data-dir="+s.path("etcd"), "--unsafe-no-fsync", "--log-level=error",
		"--listen-client-urls="+etcd, "--advertise-client-urls="+etcd,
		"--listen-peer-urls="+peer, "--initial-advertise-peer-urls="+peer, "--initial-cluster=default="+peer)
	s.write(t, "tokens.csv", `secret,admin,admin,"system:masters"`+"\n")
	s.write(t, "sa.key", key(t))
	s.start(t, "kube-apiserver", "--etcd-servers="+etcd, "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1",
		"--secure-port="+strings.TrimPrefix(port, "127.0.0.1:"), "--cert-dir="+s.path("certs"),
		"--token-auth-file="+s.path("tokens.csv"), "--authorization-mode=RBAC", "--service-cluster-ip-range=10.96.0.0/16",
		"--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file="+s.path("sa.key"),
		"--service-account-signing-key-file="+s.path("sa.key"), "--endpoint-reconciler-type=none")
	s.write(t, "kubeconfig", fmt.Sprintf("contexts: [{name: x, context: {cluster: c, user: u}}]\nclusters: [{name: c, cluster: {server: 'https://%s', insecure-skip-tls-verify: true}}]\nusers: [{name: u, user: {token: secret}}]\n", port))
	var err error
	if s.client, err = New(Options{Kubeconfig: s.path("kubeconfig"), KubeletConfigs: []string{}, Log: slog.New(slog.DiscardHandler)}); err != nil {
		t.Fatal(err)
	}
	s.until(t, "the API server is ready", func() error { return s.get(t, "/readyz") })
	s.apply(t, "/api/v1/namespaces/"+sourcetest.Namespace, fmt.Sprintf(`{"apiVersion":"v1","kind":"Namespace","metadata":{"name":%q}}`, sourcetest.Namespace))
	return s
}

func (s *realServer) path(name string) string { return filepath.Join(s.dir, name) }

func (s *realServer) write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(s.path(name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// start runs a program until the test ends, its output beside its state.
func (s *realServer) start(t *testing.T, name string, args ...string) {
	t.Helper()
	log, err := os.Create(s.path(name + ".log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(s.binary, args...)
	cmd.Args[0], cmd.Stdout, cmd.Stderr = name, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if text, err := os.ReadFile(log.Name()); err == nil && t.Failed() {
			t.Logf("%s said:\n%s", name, text[max(0, len(text)-4000):])
		}
		log.Close()
	})
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func key(t *testing.T) string {
	t.Helper()
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(private)}))
}

// until repeats try until it succeeds.
func (s *realServer) until(t testing.TB, what string, try func() error) {
	t.Helper()
	deadline := time.Now().Add(60 * time.Second)
	for {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waiting until %s: %v", what, err)
		}
		pause(t.Context(), 50*time.Millisecond)
	}
}

func (s *realServer) get(t testing.TB, path string) error {
	return s.client.clients[groups()[0]].Get().AbsPath(path).Do(t.Context()).Error()
}

// tryApply writes an object as its owner would, by server-side apply.
func (s *realServer) tryApply(t testing.TB, path, body string) error {
	return s.client.clients[groups()[0]].Patch(types.ApplyPatchType).AbsPath(path).
		Param("fieldManager", "suite").Param("force", "true").Body([]byte(body)).Do(t.Context()).Error()
}

func (s *realServer) apply(t testing.TB, path, body string) {
	t.Helper()
	if err := s.tryApply(t, path, body); err != nil {
		t.Fatal(err)
	}
}

// installCRDs applies our definitions and waits until they are in force.
func (s *realServer) installCRDs(t *testing.T) {
	t.Helper()
	files, err := crds.Files()
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		data, err := yaml.YAMLToJSON(text)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		crd := strings.TrimSuffix(strings.TrimPrefix(name, "patchbay.net_"), ".yaml") + ".patchbay.net"
		s.apply(t, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/"+crd, string(data))
	}
	for _, typ := range source.Types() {
		if typ.Version.Group == "patchbay.net" {
			s.until(t, "there are "+typ.Resource, func() error { return s.get(t, "/apis/patchbay.net/v1alpha1/"+typ.Resource) })
		}
	}
	s.until(t, "bad pools are refused", func() error {
		err := s.tryApply(t, "/apis/patchbay.net/v1alpha1/ippools/probe", badPool("probe"))
		if apierrors.IsInvalid(err) {
			return nil
		}
		if err == nil {
			s.Remove(t, source.KindIPPool, source.Key{Name: "probe"})
		}
		return fmt.Errorf("answer was %v", err)
	})
}

func badPool(name string) string {
	return fmt.Sprintf(`{"apiVersion":"patchbay.net/v1alpha1","kind":"IPPool","metadata":{"name":%q},"spec":{"use":"Nobody","cidrs":["203.0.113.0/28"]}}`, name)
}

// clear removes what a test before left.
func (s *realServer) clear(t *testing.T) {
	t.Helper()
	for _, typ := range source.Types() {
		path := "/apis/" + typ.Version.String() + "/" + typ.Resource
		switch {
		case typ.Version.Group == "patchbay.net":
		case typ.Kind == source.KindService || typ.Kind == source.KindEndpointSlice:
			path = pathOf(t, typ.Kind, source.Key{Namespace: sourcetest.Namespace, Name: "x"}).path
			path = strings.TrimSuffix(path, "/x")
		default:
			continue
		}
		if err := s.client.clients[groups()[0]].Delete().AbsPath(path).Do(t.Context()).Error(); err != nil {
			t.Fatal(err)
		}
	}
}

func (s *realServer) Source() source.Source { return s.client }
func (s *realServer) Writer() source.Writer { return s.client }

func (s *realServer) Put(t testing.TB, obj source.Object) {
	t.Helper()
	kind, err := source.KindOf(obj)
	if err != nil {
		t.Fatal(err)
	}
	typ, err := source.TypeOf(kind)
	if err != nil {
		t.Fatal(err)
	}
	fields, err := fieldsOf(obj)
	if err != nil {
		t.Fatal(err)
	}
	delete(fields, "status")
	fields["apiVersion"], fields["kind"] = typ.Version.String(), string(kind)
	body, err := json.Marshal(fields)
	if err != nil {
		t.Fatal(err)
	}
	s.apply(t, pathOf(t, kind, source.KeyOf(obj)).path, string(body))
}

func (s *realServer) Remove(t testing.TB, kind source.Kind, key source.Key) {
	t.Helper()
	path := pathOf(t, kind, key).path
	if err := s.client.clients[groups()[0]].Delete().AbsPath(path).Do(t.Context()).Error(); err != nil {
		t.Fatal(err)
	}
}

// Break lets the server take any IPPool from now on, and gives it a bad one.
func (s *realServer) Break(t testing.TB, name string) {
	t.Helper()
	path := "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/ippools.patchbay.net"
	patch := `[{"op":"replace","path":"/spec/versions/0/schema/openAPIV3Schema","value":{"type":"object","x-kubernetes-preserve-unknown-fields":true}}]`
	if err := s.client.clients[groups()[0]].Patch(types.JSONPatchType).AbsPath(path).Body([]byte(patch)).Do(t.Context()).Error(); err != nil {
		t.Fatal(err)
	}
	s.until(t, "a bad pool is taken", func() error {
		return s.tryApply(t, "/apis/patchbay.net/v1alpha1/ippools/"+name, badPool(name))
	})
}

// TestContractReal runs the suite on a real API server.
func TestContractReal(t *testing.T) {
	s := startReal(t)
	sourcetest.Run(t, func(t *testing.T) sourcetest.Backend {
		s.installCRDs(t)
		s.clear(t)
		return s
	})
}

// TestElectionAndEventsReal has what the API server validates in leases and
// events.
func TestElectionAndEventsReal(t *testing.T) {
	s := startReal(t)
	election := Election{Namespace: sourcetest.Namespace, Name: "patchbay-controller", Identity: "a"}
	for _, election.Identity = range []string{"a", "b"} { // the second needn't wait: the first gave back
		err := s.client.RunElected(t.Context(), election, func(ctx context.Context) error {
			return s.get(t, "/apis/coordination.k8s.io/v1/namespaces/"+sourcetest.Namespace+"/leases/patchbay-controller")
		})
		if err != nil {
			t.Error(err)
		}
	}
	rec := s.client.Recorder("n1")
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: sourcetest.Namespace, Name: "web"}}
	for _, obj := range []source.Object{pool("external", "203.0.113.0/28"), service} {
		for range 2 {
			rec.Event(obj, corev1.EventTypeWarning, "Conflict", "203.0.113.3 is in use")
			if err := rec.write(t.Context(), <-rec.queue, time.Now()); err != nil {
				t.Errorf("event on %T: %v", obj, err)
			}
		}
	}
}
