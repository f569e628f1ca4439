// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
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
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/patchbay-net/patchbay/deploy/crds"
	"github.com/patchbay-net/patchbay/test/netlab"
)

// What the agent is to hold, as a real API server tells it.
const (
	manyServices  = 10_000
	manyEndpoints = 10 // of each Service
	changes       = 30
)

// kubeEnv names the program that is etcd and kube-apiserver by the name it is
// called by; test/cluster builds it.
const kubeEnv = "PATCHBAY_TEST_KUBE"

const (
	apiAddress  = "127.0.0.1:6443"
	etcdAddress = "http://127.0.0.1:2379"
	etcdPeer    = "http://127.0.0.1:2380"
	nodeAddress = "10.9.0.1"
)

// measureServices has one agent hold many Services of ten endpoints: how much
// memory it takes, how long from its start to all in force, and from one
// endpoint's change, as the API takes it, to the first connection.
func measureServices(l *lab) []figure {
	kube := kubeProgram()
	if kube == "" {
		l.Logf("bench services: test/cluster has built no kube, and %s names none", kubeEnv)
		return nil
	}
	node := netlab.StartNode(l, "node-a")
	netlab.Wire(l, node.Net, "eth0", netlab.StartNode(l, "peer").Net, "eth0")
	node.Net.Addr(l, "eth0", nodeAddress+"/24")
	startAPI(l, node, kube)
	node.Start(l, netlab.Spec{Args: []string{l.program("bench"), "worker", "echo", "0", ":8080"}})
	var made struct{}
	l.worker(node, "", &made, "load", strconv.Itoa(manyServices))

	start := time.Now()
	agent := node.Start(l, netlab.Spec{Args: []string{l.program("patchbayd")}, Log: os.Stderr})
	netlab.WaitFor(l, 2*time.Minute, "all in force", func() error {
		_, err := os.Stat(node.Path("/etc/cni/net.d/00-patchbay.conflist"))
		return err
	})
	cold := time.Since(start)
	var took []time.Duration
	l.worker(node, "", &took, "change", strconv.Itoa(changes))
	time.Sleep(settled)
	const target = "target"
	return []figure{
		{"services-agent-rss", resident(l, agent.PID()), "MiB", target, 120e6 / mebi},
		{"services-cold-start", milliseconds(cold), "ms", target, 3000},
		{"services-change-p50", milliseconds(percentile(took, 50)), "ms", target, 15},
		{"services-change-max", milliseconds(percentile(took, 100)), "ms", target, 40},
	}
}

// kubeProgram is Kubernetes' own, as test/cluster has built it.
func kubeProgram() string {
	if path := os.Getenv(kubeEnv); path != "" {
		return path
	}
	cache := os.Getenv("PB_CACHE")
	if cache == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			return ""
		}
		cache = filepath.Join(base, "patchbay")
	}
	found, err := filepath.Glob(filepath.Join(cache, "cluster", "kube-*", "kube"))
	if err != nil || len(found) == 0 {
		return ""
	}
	return found[0]
}

// startAPI starts etcd and an API server on the node's loopback, and writes the
// agent's configuration.
func startAPI(l *lab, node *netlab.Node, kube string) {
	dir := filepath.Join(root, "api")
	write := func(path, text string) {
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			l.Fatalf("API server: %v", err)
		}
	}
	write(filepath.Join(dir, "tokens.csv"), `secret,admin,admin,"system:masters"`+"\n")
	write(filepath.Join(dir, "sa.key"), signingKey(l))
	program := func(name string, args ...string) {
		path := filepath.Join(dir, name)
		if err := os.Symlink(kube, path); err != nil {
			l.Fatalf("API server: %v", err)
		}
		node.Start(l, netlab.Spec{Args: append([]string{path}, args...), Log: io.Discard})
	}
	program("etcd", "--data-dir="+filepath.Join(dir, "data"), "--unsafe-no-fsync", "--log-level=error",
		"--listen-client-urls="+etcdAddress, "--advertise-client-urls="+etcdAddress,
		"--listen-peer-urls="+etcdPeer, "--initial-advertise-peer-urls="+etcdPeer, "--initial-cluster=default="+etcdPeer)
	program("kube-apiserver", "--etcd-servers="+etcdAddress, "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1",
		"--cert-dir="+filepath.Join(dir, "certs"), "--token-auth-file="+filepath.Join(dir, "tokens.csv"),
		"--authorization-mode=RBAC", "--service-cluster-ip-range=10.96.0.0/16",
		"--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file="+filepath.Join(dir, "sa.key"),
		"--service-account-signing-key-file="+filepath.Join(dir, "sa.key"), "--endpoint-reconciler-type=none",
		"--max-requests-inflight=4000", "--max-mutating-requests-inflight=2000")
	kubeconfig := filepath.Join(dir, "kubeconfig")
	write(kubeconfig, "contexts: [{name: x, context: {cluster: c, user: u}}]\nclusters: [{name: c, cluster: {server: 'https://"+apiAddress+
		"', insecure-skip-tls-verify: true}}]\nusers: [{name: u, user: {token: secret}}]\n")
	write(node.Path("/etc/patchbay/config.yaml"), "nodeName: node-a\nsource: kube\nkubeconfig: "+kubeconfig+
		"\npodCIDRs: [10.244.0.0/16]\nserviceCIDRs: [10.96.0.0/16]\nnics: [{name: eth0, role: internal}]\n")
}

func signingKey(l *lab) string {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		l.Fatalf("API server: %v", err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}))
}

// api speaks to the API server from inside the node.
type api struct{ client http.Client }

func newAPI() *api {
	return &api{http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, MaxIdleConnsPerHost: 32,
	}}}
}

func (a *api) do(method, path, kind string, object any) error {
	body, err := json.Marshal(object)
	if err != nil {
		return err
	}
	return a.send(method, path, kind, body)
}

func (a *api) send(method, path, kind string, body []byte) error {
	request, err := http.NewRequest(method, "https://"+apiAddress+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Authorization", "Bearer secret")
	request.Header.Set("Content-Type", kind)
	response, err := a.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode >= 300 {
		err = fmt.Errorf("%s %s: %s: %.300s", method, path, response.Status, answer)
	}
	return err
}

func (a *api) create(path string, object any) error {
	return a.do(http.MethodPost, path, "application/json", object)
}

type object = map[string]any

const (
	servicesPath = "/api/v1/namespaces/default/services"
	slicesPath   = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
)

// loadJob makes the node, so many Services and their slices, and one more whose
// endpoint is on this node.
func loadJob(count int, _ []string) (any, error) {
	a := newAPI()
	deadline := time.Now().Add(2 * time.Minute)
	for a.do(http.MethodGet, "/readyz", "", nil) != nil {
		if time.Now().After(deadline) {
			return nil, errors.New("the API server isn't ready")
		}
		time.Sleep(100 * time.Millisecond)
	}
	files, err := crds.Files()
	if err != nil {
		return nil, err
	}
	for _, text := range files {
		if err := a.send(http.MethodPost, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", "application/yaml", text); err != nil {
			return nil, err
		}
	}
	err = a.create("/api/v1/nodes", object{
		"metadata": object{"name": "node-a"}, "spec": object{"podCIDR": "10.244.0.0/24", "podCIDRs": []string{"10.244.0.0/24"}},
		"status": object{"addresses": []object{{"type": "InternalIP", "address": nodeAddress}}},
	})
	if err != nil {
		return nil, err
	}
	numbers, errs := make(chan int), make(chan error)
	var group sync.WaitGroup
	for range 16 {
		group.Go(func() {
			for i := range numbers {
				if err := a.makeService(i); err != nil {
					errs <- err
				}
			}
		})
	}
	go func() {
		for i := range count + 1 {
			numbers <- i
		}
		close(numbers)
		group.Wait()
		close(errs)
	}()
	for e := range errs {
		err = errors.Join(err, e)
	}
	return struct{}{}, err
}

// makeService makes Service i; that of number 0 is what changes.
func (a *api) makeService(i int) error {
	name := fmt.Sprintf("service-%05d", i)
	err := a.create(servicesPath, object{
		"metadata": object{"name": name, "labels": object{"app": name}},
		"spec":     object{"clusterIP": clusterIP(i), "ports": []object{{"name": "http", "port": 80, "targetPort": 8080}}},
	})
	if err != nil {
		return err
	}
	return a.create(slicesPath, object{
		"metadata":    object{"name": name, "labels": object{"kubernetes.io/service-name": name, "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io", "app": name}},
		"addressType": "IPv4", "endpoints": endpointsOf(i), "ports": []object{{"name": "http", "port": 8080, "protocol": "TCP"}},
	})
}

// endpointsOf are on many nodes, as the endpoint slice controller writes them;
// that of Service 0 is this node.
func endpointsOf(i int) []object {
	if i == 0 {
		return []object{{"addresses": []string{nodeAddress}, "nodeName": "node-a"}}
	}
	var list []object
	for e := range manyEndpoints {
		n := i*manyEndpoints + e
		list = append(list, object{
			"addresses": []string{fmt.Sprintf("10.244.%d.%d", n>>8&255, n&255)}, "nodeName": fmt.Sprintf("node-%d", n%100), "zone": fmt.Sprintf("zone-%d", n%3),
			"conditions": object{"ready": true, "serving": true, "terminating": false},
			"targetRef": object{"kind": "Pod", "namespace": "default", "name": fmt.Sprintf("service-%05d-6f7c9d4b5-%05d", i, n),
				"uid": fmt.Sprintf("00000000-0000-4000-8000-%012d", n)},
		})
	}
	return list
}

func clusterIP(i int) string { return fmt.Sprintf("10.96.%d.%d", 1+i/250, 1+i%250) }

// changeJob gives Service 0's endpoint a port that is open after one that isn't,
// so many times, and returns how long each took until a connection worked.
func changeJob(count int, _ []string) (any, error) {
	a := newAPI()
	set := func(port int) error {
		return a.do(http.MethodPatch, slicesPath+"/service-00000", "application/merge-patch+json",
			object{"ports": []object{{"name": "http", "port": port, "protocol": "TCP"}}})
	}
	var took []time.Duration
	for range count {
		if err := errors.Join(set(9), untilConnect(false)); err != nil {
			return nil, err
		}
		start := time.Now()
		if err := errors.Join(set(8080), untilConnect(true)); err != nil {
			return nil, err
		}
		took = append(took, time.Since(start))
	}
	return took, nil
}

// untilConnect tries until connections to Service 0 work, or don't.
func untilConnect(works bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var dialer net.Dialer
	for ctx.Err() == nil {
		conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(clusterIP(0), "80"))
		if err == nil {
			conn.Close()
		}
		if (err == nil) == works {
			return nil
		}
		time.Sleep(time.Millisecond)
	}
	return fmt.Errorf("service 0 answers: not %t within 30 s", works)
}
