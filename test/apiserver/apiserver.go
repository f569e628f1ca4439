// SPDX-License-Identifier: Apache-2.0

// Package apiserver runs etcd and kube-apiserver for a test, on the loopback of
// whatever network namespace the test runs in, and speaks to them by plain HTTP.
package apiserver

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/patchbay-net/patchbay/deploy/crds"
)

// Binary names, in the environment, the program that is etcd and kube-apiserver
// by the name it is called by; test/cluster builds it.
const Binary = "PATCHBAY_TEST_KUBE"

// Server is an API server with all of our definitions.
type Server struct {
	Kubeconfig string // a file, of an administrator
	dir        string
	binary     string
	url        string
	http       *http.Client
}

// Start runs one until the test ends. Without the binary the test is skipped.
func Start(t *testing.T) *Server {
	t.Helper()
	binary := os.Getenv(Binary)
	if binary == "" {
		t.Skipf("%s doesn't name etcd and kube-apiserver (test/cluster builds them)", Binary)
	}
	s := &Server{dir: t.TempDir(), binary: binary, http: &http.Client{
		Timeout: 20 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}},
	}}
	t.Cleanup(s.http.CloseIdleConnections)
	etcd, peer, address := "http://"+freePort(t), "http://"+freePort(t), freePort(t)
	s.url = "https://" + address
	s.run(t, "etcd", "--data-dir="+s.path("etcd"), "--unsafe-no-fsync", "--log-level=error",
		"--listen-client-urls="+etcd, "--advertise-client-urls="+etcd,
		"--listen-peer-urls="+peer, "--initial-advertise-peer-urls="+peer, "--initial-cluster=default="+peer)
	s.write(t, "tokens.csv", `secret,admin,admin,"system:masters"`+"\n")
	s.write(t, "sa.key", key(t))
	_, port, _ := net.SplitHostPort(address)
	s.run(t, "kube-apiserver", "--etcd-servers="+etcd, "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1",
		"--secure-port="+port, "--cert-dir="+s.path("certs"),
		"--token-auth-file="+s.path("tokens.csv"), "--authorization-mode=RBAC", "--service-cluster-ip-range=10.96.0.0/16",
		"--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file="+s.path("sa.key"),
		"--service-account-signing-key-file="+s.path("sa.key"), "--endpoint-reconciler-type=none")
	s.Kubeconfig = s.write(t, "kubeconfig", fmt.Sprintf("contexts: [{name: x, context: {cluster: c, user: u}}]\nclusters: [{name: c, cluster: {server: '%s', insecure-skip-tls-verify: true}}]\nusers: [{name: u, user: {token: secret}}]\n", s.url))
	s.Until(t, "the API server is ready", func() error { return s.Get("/readyz", nil) })
	s.InstallCRDs(t)
	return s
}

func (s *Server) path(name string) string { return filepath.Join(s.dir, name) }

func (s *Server) write(t *testing.T, name, text string) (path string) {
	t.Helper()
	if err := os.WriteFile(s.path(name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return s.path(name)
}

// run runs a program until the test ends, its output beside its state.
func (s *Server) run(t *testing.T, name string, args ...string) {
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

// InstallCRDs applies our definitions and waits until they are in force.
func (s *Server) InstallCRDs(t testing.TB) {
	t.Helper()
	files, err := crds.Files()
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		plural := strings.TrimSuffix(strings.TrimPrefix(name, "patchbay.net_"), ".yaml")
		s.Apply(t, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/"+plural+".patchbay.net", string(text))
		s.Until(t, "there are "+plural, func() error { return s.Get("/apis/patchbay.net/v1alpha1/"+plural, nil) })
	}
	const path, bad = "/apis/patchbay.net/v1alpha1/ippools/bad", "{apiVersion: patchbay.net/v1alpha1, kind: IPPool, metadata: {name: bad}, spec: {use: Nobody, cidrs: [203.0.113.0/28]}}"
	s.Until(t, "bad pools are refused", func() error {
		err := s.TryApply(path, bad)
		if err == nil {
			s.Delete(t, path)
			return errors.New("it is taken")
		}
		if !strings.Contains(err.Error(), "422") {
			return err
		}
		return nil
	})
}

// Until repeats try until it succeeds, for two minutes.
func (s *Server) Until(t testing.TB, what string, try func() error) {
	t.Helper()
	deadline, tick := time.NewTimer(2*time.Minute), time.NewTicker(100*time.Millisecond)
	defer deadline.Stop()
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("waiting until %s: %v", what, err)
		}
	}
}

// Apply makes an object what the YAML says, as its owner would, by server-side
// apply.
func (s *Server) Apply(t testing.TB, path, text string) {
	t.Helper()
	s.Until(t, path+" is applied", func() error { return s.TryApply(path, text) })
}

// TryApply is Apply once; the error is what the API server says.
func (s *Server) TryApply(path, text string) error {
	body, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		return err
	}
	return s.do(http.MethodPatch, path+"?fieldManager=test&force=true", "application/apply-patch+yaml", body, nil)
}

// Patch changes an object by a list of steps (RFC 6902).
func (s *Server) Patch(path, steps string) error {
	return s.do(http.MethodPatch, path, "application/json-patch+json", []byte(steps), nil)
}

// Delete removes an object; one that isn't there is no error.
func (s *Server) Delete(t testing.TB, path string) {
	t.Helper()
	s.Until(t, path+" is deleted", func() error {
		err := s.do(http.MethodDelete, path, "", nil, nil)
		if err != nil && strings.Contains(err.Error(), "404") {
			return nil
		}
		return err
	})
}

// Get reads an object or a list; into may be nil.
func (s *Server) Get(path string, into any) error { return s.do(http.MethodGet, path, "", nil, into) }

func (s *Server) do(method, path, kind string, body []byte, into any) error {
	request, err := http.NewRequest(method, s.url+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Authorization", "Bearer secret")
	if kind != "" {
		request.Header.Set("Content-Type", kind)
	}
	response, err := s.http.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode >= 300 {
		return fmt.Errorf("%s %s: %s: %.2000s", method, path, response.Status, answer)
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(answer, into)
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
