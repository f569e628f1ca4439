// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"
)

// kubeconfig is what we read of a kubeconfig file: certificates and tokens. No
// program is run to get credentials.
type kubeconfig struct {
	CurrentContext string `json:"current-context"`
	Contexts       []struct {
		Name    string `json:"name"`
		Context struct {
			Cluster string `json:"cluster"`
			User    string `json:"user"`
		} `json:"context"`
	} `json:"contexts"`
	Clusters []struct {
		Name    string      `json:"name"`
		Cluster kubeCluster `json:"cluster"`
	} `json:"clusters"`
	Users []struct {
		Name string   `json:"name"`
		User kubeUser `json:"user"`
	} `json:"users"`
}

type kubeCluster struct {
	Server        string `json:"server"`
	CAFile        string `json:"certificate-authority"`
	CAData        []byte `json:"certificate-authority-data"`
	TLSServerName string `json:"tls-server-name"`
	Insecure      bool   `json:"insecure-skip-tls-verify"`
}

type kubeUser struct {
	CertFile  string         `json:"client-certificate"`
	CertData  []byte         `json:"client-certificate-data"`
	KeyFile   string         `json:"client-key"`
	KeyData   []byte         `json:"client-key-data"`
	Token     string         `json:"token"`
	TokenFile string         `json:"tokenFile"`
	Exec      map[string]any `json:"exec"`
	Provider  map[string]any `json:"auth-provider"`
}

// credentials returns the configuration to talk to any server of the cluster,
// and the server that stands in the kubeconfig, if one was given.
func credentials(opts Options) (*rest.Config, string, error) {
	if opts.Kubeconfig != "" {
		config, server, err := fromKubeconfig(opts.Kubeconfig)
		if err != nil {
			return nil, "", fmt.Errorf("read kubeconfig %s: %w", opts.Kubeconfig, err)
		}
		return config, server, nil
	}
	token, ca := filepath.Join(opts.ServiceAccountDir, "token"), filepath.Join(opts.ServiceAccountDir, "ca.crt")
	if _, err := os.Stat(token); err != nil {
		return nil, "", fmt.Errorf("find credentials: %w: %w", errNoCredentials, err)
	}
	config := &rest.Config{BearerTokenFile: token}
	config.CAFile = ca
	return config, "", nil
}

func fromKubeconfig(path string) (*rest.Config, string, error) {
	file, err := readKubeconfig(path)
	if err != nil {
		return nil, "", err
	}
	cluster, user, err := file.current()
	if err != nil {
		return nil, "", err
	}
	if user.Exec != nil || user.Provider != nil {
		return nil, "", errors.New("credentials by exec or auth-provider aren't supported; use a certificate or a token")
	}
	abs := func(name string) string {
		if name == "" || filepath.IsAbs(name) {
			return name
		}
		return filepath.Join(filepath.Dir(path), name)
	}
	return &rest.Config{
		BearerToken:     user.Token,
		BearerTokenFile: abs(user.TokenFile),
		TLSClientConfig: rest.TLSClientConfig{
			Insecure:   cluster.Insecure,
			ServerName: cluster.TLSServerName,
			CAFile:     abs(cluster.CAFile),
			CAData:     cluster.CAData,
			CertFile:   abs(user.CertFile),
			CertData:   user.CertData,
			KeyFile:    abs(user.KeyFile),
			KeyData:    user.KeyData,
		},
	}, cluster.Server, nil
}

func readKubeconfig(path string) (*kubeconfig, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var file kubeconfig
	return &file, yaml.Unmarshal(data, &file)
}

// current returns cluster and user of the current context, or of the only one.
func (k *kubeconfig) current() (kubeCluster, kubeUser, error) {
	for _, c := range k.Contexts {
		if c.Name != k.CurrentContext && (k.CurrentContext != "" || len(k.Contexts) > 1) {
			continue
		}
		cluster, ok := k.cluster(c.Context.Cluster)
		if !ok {
			return cluster, kubeUser{}, fmt.Errorf("cluster %q isn't there", c.Context.Cluster)
		}
		for _, u := range k.Users {
			if u.Name == c.Context.User {
				return cluster, u.User, nil
			}
		}
		return cluster, kubeUser{}, fmt.Errorf("user %q isn't there", c.Context.User)
	}
	return kubeCluster{}, kubeUser{}, fmt.Errorf("context %q isn't there", k.CurrentContext)
}

func (k *kubeconfig) cluster(name string) (kubeCluster, bool) {
	for _, c := range k.Clusters {
		if c.Name == name {
			return c.Cluster, true
		}
	}
	return kubeCluster{}, false
}
